"""The senses of a model: LeRobot's keys, and the shape of one observation of each.

`observation.state` (S,) float32, `observation.images.<camera>` (H, W, 3) uint8, `observation.language` (T,) float32.
Any sense may be missing at any moment (`worldmodel.observation`).
"""

from collections.abc import Mapping

from worldmodel.errors import UserError

STATE_KEY = "observation.state"
IMAGE_KEY_PREFIX = "observation.images."
LANGUAGE_KEY = "observation.language"
SIZES = (16, 512)  # minimum and maximum height and width of a perceived frame, in pixels

Shapes = Mapping[str, tuple[int, ...]]


def key(name: str) -> str:
    """Return the observation key of a sense: `observation.state` for `state`."""
    return f"observation.{name}"


def name(key: str) -> str:
    """Return the short name of a sense: `images.front` for `observation.images.front`."""
    return key.removeprefix("observation.")


def is_image(key: str) -> bool:
    """Return whether a key names a camera."""
    return key.startswith(IMAGE_KEY_PREFIX)


def shows_scene(key: str) -> bool:
    """Return whether a sense observes the scene; language only says what to do in it."""
    return key != LANGUAGE_KEY


def stacked(senses: Shapes, frames: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the senses with `frames` frames of each camera stacked, (F, H, W, 3)."""
    return {key: (frames, *shape) if is_image(key) else tuple(shape) for key, shape in senses.items()}


def check(senses: Shapes) -> None:
    """Raise ValueError, in one line, if there is no sense, or one has an unknown key or an impossible shape."""
    if not senses:
        raise UserError("a model perceives at least one sense")
    for key, shape in senses.items():
        if is_image(key):
            if len(shape) != 3 or shape[2] != 3 or min(shape) < 1:
                raise UserError(f"{key}: frames (height, width, 3), not {tuple(shape)}")
        elif key not in (STATE_KEY, LANGUAGE_KEY):
            raise UserError(f"{key}: no such sense; {STATE_KEY}, {IMAGE_KEY_PREFIX}<camera> or {LANGUAGE_KEY}")
        elif len(shape) != 1 or shape[0] < 1:
            raise UserError(f"{key}: a vector of numbers, not {tuple(shape)}")


def check_sides(beginning: str, *sides: object, example: str = "") -> None:
    """Raise ValueError, in one line that starts with `beginning`, unless all `sides` are whole pixels within SIZES.

    `example` is a valid setting to quote. For code that chooses the frame size; a model itself takes smaller frames.
    """
    least, most = SIZES
    if not all(type(side) is int and least <= side <= most for side in sides):
        such = f", e.g. {example}" if example else ""
        raise UserError(f"{beginning}: a whole number of pixels from {least} to {most}{such}")
