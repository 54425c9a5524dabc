"""What can be set about a codec."""

from dataclasses import dataclass

from worldmodel.ranges import check

WRITINGS = ("auto", "curves", "corners")


@dataclass(frozen=True)
class CodecConfig:
    """A chunk of `length` control steps becomes `ids` ids of `bits` bits each (a vocabulary of 2^bits).

    `knots`: control points of its curve, of the given `degree`; 0: one for five steps, which at 50 Hz is ten a second.
    `margin`: decoded values stay within so many times the half range of the data (its 1-99 % quantiles), or within the
    limits given to `Codec.fit`. `relative`: the curve begins where the arm is, so that chunks join; without it the ids
    say where it begins, and decode with nothing but themselves. `events`: find channels that switch and encode when
    and to what, instead of a curve. `writing`: "curves", or "corners" for actions that jump in every channel, where an
    id says where one channel turns; "auto": curves, unless they are far off and corners clearly better. `worth`: a
    corner is written if it lowers the mean squared error of the scaled chunk by that squared.
    """

    length: int = 50
    ids: int = 8
    bits: int = 12
    knots: int = 0
    degree: int = 3
    margin: float = 1.3
    relative: bool = True
    events: bool = True
    writing: str = "auto"
    worth: float = 0.008

    def __post_init__(self):
        """Raise ValueError for a value out of range."""
        check("", self, "length", low=2)
        check("", self, "ids", low=1, high=256)
        check("", self, "bits", low=1, high=16)
        check("", self, "degree", low=1, high=5)
        check("", self, "margin", low=1)
        check("", self, "worth", above=0)
        if self.writing not in WRITINGS:
            raise ValueError(f"writing={self.writing}: one of {', '.join(WRITINGS)}")
        if self.knots and not self.degree < self.knots <= self.length:
            raise ValueError(f"knots={self.knots}: 0, or from {self.degree + 1} to {self.length} (length)")
        check("", self, "degree", low=1, high=self.control_points - 1, why=f" for chunks of length={self.length}")

    @property
    def control_points(self) -> int:
        """Control points of a chunk's curve."""
        return self.knots or min(self.length, max(self.degree + 2, round(self.length / 5)))
