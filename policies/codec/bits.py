"""The order of bits in a string, most informative first, and the ids they are packed into."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


def order(gains: list[list[tuple[tuple[int, ...], float]]], budget: int) -> Int[np.ndarray, " B"]:
    """Return which number each bit of the string refines: at most `budget` bits, largest gain per bit first.

    `gains[s]` lists what source s offers, in the order it must be taken: groups of (numbers refined by one bit each,
    squared error they save together). This is reverse water-filling (Cover and Thomas 2006, ch. 10), bit by bit.
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
    """A string of `ids` ids of `bits` bits each, whose j-th bit refines number `refines[j]` of `count`.

    `refines` has ids x bits entries; it is -1 for an unused bit, where nothing was left to refine.
    """

    ids: int
    bits: int
    refines: Int[np.ndarray, " B"]
    count: int

    def depths(self, ids: int) -> Int[np.ndarray, " K"]:
        """Return how many bits of each of the `count` numbers the first `ids` ids hold."""
        seen = self.refines[: ids * self.bits]
        return np.bincount(seen[seen >= 0], minlength=self.count)

    def places(self) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
        """Return for each bit of the string its number (0 if unused), and its shift within that number's full cell."""
        full, seen = self.depths(self.ids), np.zeros(self.count, dtype=int)
        shifts = np.zeros(len(self.refines), dtype=int)
        for j, k in enumerate(self.refines):
            if k >= 0:
                seen[k] += 1
                shifts[j] = full[k] - seen[k]
        return np.maximum(self.refines, 0), shifts

    def weights(self) -> Float[np.ndarray, "B W"]:
        """Return the matrix from a string of bits to its ids, first bit most significant."""
        place = 2.0 ** np.arange(self.bits)[::-1]
        return np.kron(np.eye(self.ids), place[:, None])
