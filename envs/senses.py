"""Which senses an environment gives. No torch and no Gymnasium here: commands read it to print help."""

import re
from dataclasses import dataclass

from worldmodel import senses as naming
from worldmodel.mistakes import Mistake
from worldmodel.senses import key

STATE_NAME, LANGUAGE_NAME = naming.name(naming.STATE_KEY), naming.name(naming.LANGUAGE_KEY)
IMAGE_NAME_PREFIX = naming.name(naming.IMAGE_KEY_PREFIX)
"""What the name of each camera begins with."""
MAIN = "main"
"""The camera that every task has which can be drawn."""
CHOICES = "state, images.<camera> (images.main has every task that can be drawn), language"


def mask_key(sense: str) -> str:
    """Where an observation says whether a sense is there now, if that can change: bool (1,)."""
    return naming.mask(key(sense))


@dataclass(frozen=True)
class Senses:
    """What an agent perceives: `names` as in `senses=`, and the height and width of its frames, `image_size=`.

    A name is `state`, `images.<camera>` or `language`.
    """

    names: tuple[str, ...] = (STATE_NAME,)
    size: int = 64

    def __post_init__(self):
        """Raise ValueError, naming the key, for what is no list of senses or no size; one line."""
        if isinstance(self.names, str):
            raise Mistake(f"senses={self.names}: a list, e.g. senses=[state,images.main]")
        object.__setattr__(self, "names", tuple(self.names))
        said = f"senses=[{','.join(map(str, self.names))}]"
        if not self.names:
            raise Mistake(f"{said}: at least one of {CHOICES}")
        for name in self.names:
            if name not in (STATE_NAME, LANGUAGE_NAME) and not re.fullmatch(r"images\.[\w-]+", str(name)):
                raise Mistake(f"{said}: {name} is no sense; they are {CHOICES}")
            if self.names.count(name) > 1:
                raise Mistake(f"{said}: {name} twice; each sense once")
        least, most = naming.SIZES
        if type(self.size) is not int or not least <= self.size <= most:
            raise Mistake(f"image_size={self.size}: a whole number of pixels from {least} to {most}")

    @classmethod
    def of(cls, shapes: naming.Shapes) -> "Senses":
        """What an environment has to show for a model that perceives these."""
        sizes = [shape[0] for key, shape in shapes.items() if naming.is_image(key)]
        return cls(tuple(naming.name(key) for key in shapes), *sizes[:1])

    @property
    def state(self) -> bool:
        """Whether the environment's numbers are among them."""
        return STATE_NAME in self.names

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras, without `images.`, in the order given."""
        return tuple(name.removeprefix(IMAGE_NAME_PREFIX) for name in self.names if name.startswith(IMAGE_NAME_PREFIX))

    @property
    def language(self) -> bool:
        """Whether the task's sentence is among them."""
        return LANGUAGE_NAME in self.names
