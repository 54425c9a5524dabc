"""The order of bits, the most telling first, and ids made of them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


def order(gains: list[list[tuple[tuple[int, ...], float]]], budget: int) -> Int[np.ndarray, " B"]:
    """Which number each bit of the string refines: `budget` of them, those with the largest gain a bit first.

    `gains[s]` is what source s offers, in its order: groups of (numbers refined by one bit each, squared error they
    save together). This is reverse water-filling (Cover and Thomas 2006, ch. 10), one bit at a time.
    """
    offers = [list(source) for source in gains]
    chosen: list[int] = []
    while len(chosen) < budget:
        rates = [source[0][1] / len(source[0][0]) if source else -np.inf for source in offers]
        best = int(np.argmax(rates))
        if not offers[best]:
            break
        chosen.extend(offers[best].pop(0)[0])
    return np.array(chosen[:budget], dtype=int)


@dataclass(frozen=True)
class IdString:
    """`ids` ids of `bits` bits each, whose bits refine the numbers `refines` (ids x bits) one after the other.

    A bit that refines nothing (there was nothing left to say) has the number -1.
    """

    ids: int
    bits: int
    refines: Int[np.ndarray, " B"]
    count: int

    def depths(self, ids: int) -> Int[np.ndarray, " K"]:
        """How many bits of each of the `count` numbers the first `ids` ids hold."""
        seen = self.refines[: ids * self.bits]
        return np.bincount(seen[seen >= 0], minlength=self.count)

    def places(self) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
        """For each bit of the string: its number (0 if none), and how far down it stands in that number's full cell."""
        full, seen = self.depths(self.ids), np.zeros(self.count, dtype=int)
        shifts = np.zeros(len(self.refines), dtype=int)
        for j, k in enumerate(self.refines):
            if k >= 0:
                seen[k] += 1
                shifts[j] = full[k] - seen[k]
        return np.maximum(self.refines, 0), shifts

    def weights(self) -> Float[np.ndarray, "B W"]:
        """The matrix from a string of bits to its ids, first bit most significant."""
        place = 2.0 ** np.arange(self.bits)[::-1]
        return np.kron(np.eye(self.ids), place[:, None])
