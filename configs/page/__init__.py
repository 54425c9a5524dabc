"""Pages: HTML files that need nothing else, with one style for all, and how things are written into them."""

import base64
import io
import math
from pathlib import Path

import numpy as np

STYLE = "/*style*/"  # where a page wants the style


def page(name: str) -> str:
    """Return the page `name`.html with its style in it."""
    here = Path(__file__).parent
    style = (here / "style.css").read_text(encoding="utf-8")
    return (here / f"{name}.html").read_text(encoding="utf-8").replace(STYLE, style, 1)


def jpeg(picture: np.ndarray) -> str:
    """Return a picture (H, W, 3) uint8 as the address of an image that holds it."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def inline(svg: str) -> str:
    """Return an SVG without a style of its own, such that it takes the page's colour."""
    head, _, rest = svg.partition("<style>")
    return (head + rest.partition("</style>\n")[2]).replace("\n", "")


def short(value: float) -> float | None:
    """Return a number to four digits; None, which JSON knows, for one that is not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
