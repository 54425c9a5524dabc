"""The settings of a codec."""

from dataclasses import dataclass

from policies.settings import CodecChoices
from worldmodel.mistakes import Mistake
from worldmodel.ranges import check


@dataclass(frozen=True)
class CodecConfig(CodecChoices):
    """The settings of a codec, for chunks of `length` control steps."""

    length: int = 50

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("", self, "length", low=2)
        CodecChoices.__post_init__(self)
        if self.knots and not self.degree < self.knots <= self.length:
            raise Mistake(f"knots={self.knots}: 0, or from {self.degree + 1} to {self.length} (length)")
        check("", self, "degree", low=1, high=self.control_points - 1, why=f" for chunks of length={self.length}")

    @property
    def control_points(self) -> int:
        """The number of control points of a chunk's curve: `knots`, or derived from length and degree if that is 0."""
        return self.knots or min(self.length, max(self.degree + 2, round(self.length / 5)))
