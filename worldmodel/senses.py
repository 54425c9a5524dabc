"""The senses of a model by LeRobot's keys, each with the shape of one observation; and what is said of one missing.

`observation.state` (S,) float32, `observation.images.<camera>` (H, W, 3) uint8, `observation.language` (T,) float32.
Any may be missing: its key, or by `mask.<sense>` (1,), 0 where it is not to be looked at now. A model of one sense
alone has nothing else to look at: it takes what that shows whatever the mask says, and refuses an observation without.
"""

from collections.abc import Mapping

from worldmodel.mistakes import Mistake

STATE_KEY = "observation.state"
IMAGE_KEY_PREFIX = "observation.images."
LANGUAGE_KEY = "observation.language"
SIZES = (16, 512)  # pixels: least and most height and width of a frame that is perceived

Shapes = Mapping[str, tuple[int, ...]]


def key(name: str) -> str:
    """Where a sense of that name stands in an observation: `observation.state` of `state`."""
    return f"observation.{name}"


def name(key: str) -> str:
    """What a sense is called where it is plain that senses are meant: `images.front` of `observation.images.front`."""
    return key.removeprefix("observation.")


def mask(key: str) -> str:
    """The key that says whether a sense is there."""
    return f"mask.{name(key)}"


def is_image(key: str) -> bool:
    """Whether a sense is a camera."""
    return key.startswith(IMAGE_KEY_PREFIX)


def check(senses: Shapes) -> None:
    """Raise ValueError, in one line, unless every sense has a known key and a shape that such a sense can have."""
    if not senses:
        raise Mistake("a model perceives at least one sense")
    for key, shape in senses.items():
        if is_image(key):
            if len(shape) != 3 or shape[2] != 3 or min(shape) < 1:
                raise Mistake(f"{key}: frames (height, width, 3), not {tuple(shape)}")
        elif key not in (STATE_KEY, LANGUAGE_KEY):
            raise Mistake(f"{key}: no such sense; {STATE_KEY}, {IMAGE_KEY_PREFIX}<camera> or {LANGUAGE_KEY}")
        elif len(shape) != 1 or shape[0] < 1:
            raise Mistake(f"{key}: a vector of numbers, not {tuple(shape)}")


def check_sides(said: str, *sides: object, example: str = "") -> None:
    """Raise ValueError, in one line that begins with `said`, unless a frame that is perceived can have such sides.

    In pixels. Checked by whoever chooses what is perceived of the world; a model itself takes smaller frames.
    """
    least, most = SIZES
    if not all(type(side) is int and least <= side <= most for side in sides):
        such = f", e.g. {example}" if example else ""
        raise Mistake(f"{said}: a whole number of pixels from {least} to {most}{such}")
