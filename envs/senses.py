"""The senses an environment provides. Must not import torch or Gymnasium: commands read it to print help."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from worldmodel import senses as naming
from worldmodel.errors import UserError

STATE_NAME, LANGUAGE_NAME = naming.name(naming.STATE_KEY), naming.name(naming.LANGUAGE_KEY)
IMAGE_NAME_PREFIX = naming.name(naming.IMAGE_KEY_PREFIX)  # prefix of every camera's sense name
MAIN = "main"  # camera that every task that can be rendered has
IMAGE_SIZE = 64  # default height and width of a camera's frames, in pixels
CHOICES = "state, images.<camera> (images.main has every task that can be drawn), language"


@dataclass(frozen=True)
class Senses:
    """The senses an agent observes, as `chosen` by `senses=`, in which a camera's name may end with its size.

    `image_size`: of the other cameras. `names`: each `state`, `images.<camera>` or `language`. `sizes`: (height, width)
    of each camera's frames in pixels, by camera name without `images.`, in the given order.
    """

    chosen: Sequence[str] = field(default=(STATE_NAME,), compare=False)
    image_size: int = field(default=IMAGE_SIZE, compare=False)
    names: tuple[str, ...] = field(init=False)
    sizes: dict[str, tuple[int, int]] = field(init=False, hash=False)

    def __post_init__(self):
        naming.check_sides(f"image_size={self.image_size}", self.image_size)
        if isinstance(self.chosen, str):
            raise UserError(f"senses={self.chosen}: a list, e.g. senses=[state,images.main]")
        said = f"senses=[{','.join(map(str, self.chosen))}]"
        if not self.chosen:
            raise UserError(f"{said}: at least one of {CHOICES}")
        parts = [_apart(each, said) for each in map(str, self.chosen)]
        names = [name for name, _ in parts]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{said}: {twice[0]} twice; each sense once")
        cameras = {
            name.removeprefix(IMAGE_NAME_PREFIX): size for name, size in parts if name.startswith(IMAGE_NAME_PREFIX)
        }
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "sizes", {name: size or (self.image_size,) * 2 for name, size in cameras.items()})

    @classmethod
    def of(cls, shapes: naming.Shapes) -> "Senses":
        """Return the senses a model with these `shapes` needs from an environment. Raises ValueError if invalid."""
        naming.check(shapes)
        chosen = []
        for key, shape in shapes.items():
            if naming.is_image(key):
                naming.check_sides(f"{key}: {tuple(shape)}", *shape[:2])
            chosen.append(naming.name(key) + (f":{shape[0]}x{shape[1]}" if naming.is_image(key) else ""))
        return cls(chosen)

    @property
    def state(self) -> bool:
        """Whether the state is among the senses."""
        return STATE_NAME in self.names

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras' names without `images.`, in the given order."""
        return tuple(self.sizes)

    @property
    def language(self) -> bool:
        """Whether language is among the senses."""
        return LANGUAGE_NAME in self.names


def check_image_size(chosen: Sequence[str]) -> None:
    """Raise ValueError, one line, if `image_size=` applies to no camera in `senses=` (none, or all have own sizes)."""
    written = [str(each) for each in chosen]
    cameras = [each for each in written if each.startswith(IMAGE_NAME_PREFIX)]
    if not cameras:
        raise UserError("image_size: only with a camera among the senses, e.g. senses=[state,images.main]")
    if all(":" in each for each in cameras):
        raise UserError(f"image_size: each camera of senses=[{','.join(written)}] has its own size; leave it out")


def _apart(written: str, said: str) -> tuple[str, tuple[int, int] | None]:
    """Split a sense into its name and, if given, (height, width): `images.front:96`, `images.front:48x64`."""
    name, colon, size = written.partition(":")
    if name not in (STATE_NAME, LANGUAGE_NAME) and not re.fullmatch(r"images\.[\w-]+", name):
        raise UserError(f"{said}: {written} is no sense; they are {CHOICES}")
    if not colon:
        return name, None
    if not name.startswith(IMAGE_NAME_PREFIX):
        raise UserError(f"{said}: {written}: only a camera has a size; {name}")
    found = re.fullmatch("([0-9]{1,4})(x([0-9]{1,4}))?", size)
    sides = (int(found[1]), int(found[3] or found[1])) if found else (0, 0)
    naming.check_sides(f"{said}: {written}", *sides, example=f"{name}:96 or {name}:48x64")
    return name, sides
