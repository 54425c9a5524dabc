"""Ink on paper: a glyph as SVG text, as an image of any size, or as a file.

Images are rendered by Agg, the rasteriser inside matplotlib, without matplotlib's figures: it is already installed,
antialiases by exact coverage (no oversampling), and draws a plan within the time of a video frame.
"""

from collections.abc import Iterable
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from policies.glyphs.glyph import Shape, glyph
from policies.storage.folders import replace_file
from policies.tokens.vocabulary import Token, text

INK, NIGHT = "#15151c", "#f1efe8"
"""The ink's colours on white paper and on a dark page."""
SCALE = 1000  # SVG units from the middle of a glyph to its edge
ERROR = 2  # how far an outline is simplified in an SVG, in units


def svg(shapes: Iterable[Shape], title: str = "") -> str:
    """Return an SVG document with a transparent background, dark ink, and light ink where dark mode is preferred."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{-SCALE} {-SCALE} {2 * SCALE} {2 * SCALE}" '
        f'fill="currentColor" role="img">',
        f"<title>{escape(title, quote=False)}</title>",
        f"<style>:root{{color:{INK}}}@media(prefers-color-scheme:dark){{:root{{color:{NIGHT}}}}}</style>",
    ]
    for shape in shapes:
        pale = "" if shape.opacity == 1 else f' fill-opacity="{shape.opacity:.3f}"'
        parts.append(f'<path class="{shape.role}"{pale} d="{"".join(map(_path, shape.outlines))}"/>')
    return "\n".join([*parts, "</svg>\n"])


def _path(outline: Float[np.ndarray, "n 2"]) -> str:
    """Return a closed outline as SVG path data: integer coordinates relative to the previous point, no repetitions."""
    from matplotlib.path import Path as Outline

    scaled = Outline(outline * SCALE)
    scaled.simplify_threshold = ERROR
    simple = scaled.cleaned(simplify=True)
    points = np.rint(np.asarray(simple.vertices)[simple.codes != Outline.STOP]).astype(int)
    steps = np.diff(points, axis=0)
    numbers = "".join(f"{x:+d}{y:+d}" for x, y in steps[np.any(steps != 0, axis=1)])
    return f"M{points[0, 0]:d} {points[0, 1]:d}l{numbers}z".replace("+", " ").replace("l ", "l") if numbers else ""


def picture(
    shapes: Iterable[Shape], size: int, ink: str = INK, paper: str | None = None
) -> UInt8[np.ndarray, "size size 4"]:
    """Render a glyph as an RGBA image of `size` pixels a side; without `paper` it is transparent, not premultiplied."""
    from matplotlib.backends.backend_agg import RendererAgg  # importing it takes a third of a second
    from matplotlib.colors import to_rgb
    from matplotlib.path import Path as Outline
    from matplotlib.transforms import Affine2D

    sheet = RendererAgg(size, size, 72)
    pen = sheet.new_gc()
    pen.set_linewidth(0)
    pen.set_snap(False)
    to_pixels = Affine2D().scale(size / 2, -size / 2).translate(size / 2, size / 2)
    if paper is not None:
        corners = np.array([[-1.1, -1.1], [1.1, -1.1], [1.1, 1.1], [-1.1, 1.1]])
        sheet.draw_path(pen, Outline(corners), to_pixels, to_rgb(paper))
    colour = to_rgb(ink)
    for shape in shapes:
        outlines = shape.outlines
        points = np.concatenate([part for outline in outlines for part in (outline, outline[:1])])
        codes = np.full(len(points), Outline.LINETO, dtype=np.uint8)
        ends = np.cumsum([len(outline) + 1 for outline in outlines])
        codes[np.concatenate([[0], ends[:-1]])], codes[ends - 1] = Outline.MOVETO, Outline.CLOSEPOLY
        sheet.draw_path(pen, Outline(points, codes), to_pixels, (*colour, shape.opacity))
    return np.array(sheet.buffer_rgba())


def draw(sentence: Iterable[Token], path: Path, size: int = 800) -> None:
    """Write a sentence's glyph as .svg, or as .png of `size` pixels a side on white. Raises ValueError, OSError."""
    tokens = tuple(sentence)
    shapes = glyph(tokens)
    if path.suffix == ".svg":
        replace_file(path, svg(shapes, text(tokens)).encode())
    elif path.suffix == ".png":
        import imageio.v3 as imageio

        replace_file(path, imageio.imwrite("<bytes>", picture(shapes, size, paper="white")[..., :3], extension=".png"))
    else:
        raise ValueError(f"{path}: a glyph is drawn as .svg or .png")
