"""The quantized numbers of a chunk as ids: the bits of all numbers in one order, most informative first."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from policies.codec.scalar_quantizer import ScalarQuantizer

FEW = 8  # for at most this many chunks, comparing with all edges at once is faster than a binary search per number


def order(gains: list[list[tuple[tuple[int, ...], float]]], budget: int) -> Int[np.ndarray, " B"]:
    """Return which number each bit of a string refines: at most `budget` bits, largest gain per bit first.

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
class BitPacking:
    """Conversion of the K numbers of a chunk to `ids` ids of `bits` bits, and from any prefix of the ids to numbers.

    Bit j of the string refines number `refines[j]`, or nothing if that is -1; `refines` has ids x bits entries.
    """

    quantizer: ScalarQuantizer
    refines: Int[np.ndarray, " B"]
    ids: int
    bits: int

    def depths(self, ids: int) -> Int[np.ndarray, " K"]:
        """Return how many bits of each number the first `ids` ids hold."""
        refined = self.refines[: ids * self.bits]
        return np.bincount(refined[refined >= 0], minlength=len(self.quantizer.values))

    def cells(self, numbers: Float[np.ndarray, "N k"], first: int = 0) -> Int[np.ndarray, "N k"]:
        """Return the cell of each number at its deepest level; `numbers` are those from index `first` on."""
        edges = self._edges[first : first + numbers.shape[1]]
        if len(numbers) <= FEW:
            return np.count_nonzero(numbers[:, :, None] >= edges, axis=-1)
        cells = np.empty(numbers.shape, dtype=np.int64)
        for k, among in enumerate(edges):
            cells[:, k] = np.searchsorted(among, numbers[:, k], side="right")
        return cells

    def values(self, cells: Int[np.ndarray, "N k"]) -> Float[np.ndarray, "N k"]:
        """Return the values of the given cells of the first k numbers."""
        which = np.arange(cells.shape[1])
        return self.quantizer.values[which, 2 ** self._full[which] + cells]

    def pack(self, cells: Int[np.ndarray, "N K"]) -> Int[np.ndarray, "N n"]:
        """Return the ids of the cells of all numbers."""
        bits = (cells[:, np.maximum(self.refines, 0)] >> self._shifts) & (self.refines >= 0)
        return bits.reshape(len(cells), self.ids, self.bits) @ self._powers

    def unpack(self, ids: Int[np.ndarray, "N n"]) -> Float[np.ndarray, "N K"]:
        """Return the numbers of a prefix of n ids."""
        matrix, roots = self._prefixes[ids.shape[1]]
        bits = (ids[:, :, None] // self._powers) & 1
        return self.quantizer.values.take((bits.reshape(len(ids), len(matrix)) @ matrix).astype(np.int64) + roots)

    @cached_property
    def _powers(self) -> Int[np.ndarray, " b"]:
        """The place values of an id's bits, the first bit being the most significant."""
        return 2 ** np.arange(self.bits)[::-1]

    @cached_property
    def _full(self) -> Int[np.ndarray, " K"]:
        return self.depths(self.ids)

    @cached_property
    def _edges(self) -> Float[np.ndarray, "K E"]:
        return self.quantizer.edges(self._full)

    @cached_property
    def _shifts(self) -> Int[np.ndarray, " B"]:
        """The place of each bit of the string within its number's full cell, counted from the last bit."""
        left = self._full.copy()
        shifts = np.zeros(len(self.refines), dtype=int)
        for j, k in enumerate(self.refines):
            if k >= 0:
                left[k] -= 1
                shifts[j] = left[k]
        return shifts

    @cached_property
    def _prefixes(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each prefix of n ids: the matrix from its bits to the numbers' cells, and each number's first node.

        First nodes are those of the level the prefix reaches, as indices into the flattened values of the quantizer.
        """
        count, width = self.quantizer.values.shape
        result = []
        for n in range(self.ids + 1):
            depths = self.depths(n)
            used = np.flatnonzero(self.refines[: n * self.bits] >= 0)
            matrix = np.zeros((n * self.bits, count))
            numbers = self.refines[used]
            matrix[used, numbers] = 2.0 ** (self._shifts[used] - (self._full - depths)[numbers])
            result.append((matrix, 2**depths + np.arange(count) * width))
        return result
