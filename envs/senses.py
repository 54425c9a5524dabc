"""Which senses an environment gives. No torch and no Gymnasium here: commands read it to print help."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from worldmodel import senses as naming
from worldmodel.mistakes import Mistake
from worldmodel.senses import key

STATE_NAME, LANGUAGE_NAME = naming.name(naming.STATE_KEY), naming.name(naming.LANGUAGE_KEY)
IMAGE_NAME_PREFIX = naming.name(naming.IMAGE_KEY_PREFIX)
"""What the name of each camera begins with."""
MAIN = "main"
"""The camera that every task has which can be drawn."""
IMAGE_SIZE = 64
"""Height and width, in pixels, of the frames of a camera of which nothing else is said."""
CHOICES = "state, images.<camera> (images.main has every task that can be drawn), language"


def mask_key(sense: str) -> str:
    """Where an observation says whether a sense is there now, if that can change: bool (1,)."""
    return naming.mask(key(sense))


@dataclass(frozen=True, init=False)
class Senses:
    """What an agent perceives: `names`, each `state`, `images.<camera>` or `language`, and what its cameras show.

    `sizes`: height and width of each camera's frames, in pixels, by its name without `images.`, in the order given.
    """

    names: tuple[str, ...]
    sizes: dict[str, tuple[int, int]] = field(hash=False)

    def __init__(self, chosen: Sequence[str] = (STATE_NAME,), image_size: int = IMAGE_SIZE):
        """As in `senses=`, where a camera's name may end with its size, and `image_size=`, that of the others.

        Raise ValueError, naming the key, for what is no list of senses or no size; one line.
        """
        naming.check_sides(f"image_size={image_size}", image_size)
        if isinstance(chosen, str):
            raise Mistake(f"senses={chosen}: a list, e.g. senses=[state,images.main]")
        said = f"senses=[{','.join(map(str, chosen))}]"
        if not chosen:
            raise Mistake(f"{said}: at least one of {CHOICES}")
        names, sizes = [], {}
        for each in map(str, chosen):
            name, size = _apart(each, said)
            if name in names:
                raise Mistake(f"{said}: {name} twice; each sense once")
            names.append(name)
            if name.startswith(IMAGE_NAME_PREFIX):
                sizes[name.removeprefix(IMAGE_NAME_PREFIX)] = size or (image_size, image_size)
        self._be(names, sizes)

    @classmethod
    def of(cls, shapes: naming.Shapes) -> "Senses":
        """What an environment has to show for a model that perceives these. Raises ValueError where none could."""
        naming.check(shapes)
        sizes = {}
        for sense, shape in shapes.items():
            if naming.is_image(sense):
                naming.check_sides(f"{sense}: {tuple(shape)}", *shape[:2])
                sizes[sense.removeprefix(naming.IMAGE_KEY_PREFIX)] = (shape[0], shape[1])
        made = cls.__new__(cls)
        made._be(map(naming.name, shapes), sizes)
        return made

    def _be(self, names: Iterable[str], sizes: dict[str, tuple[int, int]]) -> None:
        """Set the fields, which are frozen."""
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "sizes", sizes)

    @property
    def state(self) -> bool:
        """Whether the environment's numbers are among them."""
        return STATE_NAME in self.names

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras, without `images.`, in the order given."""
        return tuple(self.sizes)

    @property
    def language(self) -> bool:
        """Whether the task's sentence is among them."""
        return LANGUAGE_NAME in self.names


def check_image_size(chosen: Sequence[str]) -> None:
    """Raise ValueError, in one line, where `image_size=` is of no camera in `senses=`: of none without its own size."""
    written = [str(each) for each in chosen]
    cameras = [each for each in written if each.startswith(IMAGE_NAME_PREFIX)]
    if not cameras:
        raise Mistake("image_size: only with a camera among the senses, e.g. senses=[state,images.main]")
    if all(":" in each for each in cameras):
        raise Mistake(f"image_size: each camera of senses=[{','.join(written)}] has its own size; leave it out")


def _apart(written: str, said: str) -> tuple[str, tuple[int, int] | None]:
    """A sense's name, and height and width of a camera that has its own: `images.front:96`, `images.front:48x64`."""
    name, colon, size = written.partition(":")
    if name not in (STATE_NAME, LANGUAGE_NAME) and not re.fullmatch(r"images\.[\w-]+", name):
        raise Mistake(f"{said}: {written} is no sense; they are {CHOICES}")
    if not colon:
        return name, None
    if not name.startswith(IMAGE_NAME_PREFIX):
        raise Mistake(f"{said}: {written}: only a camera has a size; {name}")
    found = re.fullmatch("([0-9]{1,4})(x([0-9]{1,4}))?", size)
    sides = (int(found[1]), int(found[3] or found[1])) if found else (0, 0)
    naming.check_sides(f"{said}: {written}", *sides, example=f"{name}:96 or {name}:48x64")
    return name, sides
