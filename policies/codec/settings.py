"""What can be set about a codec."""

from dataclasses import dataclass

from worldmodel.ranges import check


@dataclass(frozen=True)
class CodecConfig:
    """A chunk of `length` control steps becomes `ids` ids of `bits` bits each (a vocabulary of 2^bits).

    `knots`: control points of its curve, of the given `degree`; 0: one for five steps, which at 50 Hz is ten a second.
    `margin`: decoded values stay within so many times the half range of the data (its 1-99 % quantiles), or within the
    limits given to `Codec.fit`. `relative`: the curve begins where the arm is, so that chunks join; without it the ids
    say where it begins, and decode with nothing but themselves. `events`: find channels that switch and encode when
    and to what, instead of a curve.
    """

    length: int = 50
    ids: int = 8
    bits: int = 12
    knots: int = 0
    degree: int = 3
    margin: float = 1.3
    relative: bool = True
    events: bool = True

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("", self, "length", low=2)
        check("", self, "ids", low=1, high=256)
        check("", self, "bits", low=1, high=16)
        check("", self, "degree", low=1, high=5)
        check("", self, "margin", low=1)
        if self.knots and not self.degree < self.knots <= self.length:
            raise ValueError(f"knots={self.knots}: 0, or from {self.degree + 1} to {self.length} (length)")

    @property
    def control_points(self) -> int:
        """Control points of a chunk's curve."""
        return self.knots or min(self.length, max(self.degree + 2, round(self.length / 5)))
