"""Numbers as bits: each number's range is split in two where that reduces the squared error most, recursively.

A prefix of a number's bits names a larger cell, and the value of a cell is the mean of the data in it, so any prefix
decodes to the best guess it allows. Nodes are numbered as in a heap: the root is 1, the children of h are 2h and
2h + 1, so that the bits of a number, read after a leading 1, are its node. (Successive refinement: Equitz and Cover
1991; the split solves the two-cell quantizer of Lloyd 1982 exactly.) The bits of all numbers of a chunk are packed into
ids in one order, most informative first.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

FEWEST = 4  # smallest number of samples in a cell that is split further
FEW = 8  # for at most this many chunks, comparing with all edges at once is faster than a binary search per number


@dataclass(frozen=True)
class ScalarQuantizer:
    """Quantizers of K numbers, each with up to `depth` bits.

    `splits` (K, 2^depth): where each inner node splits; `values` (K, 2^(depth + 1)): the value of each node; `errors`
    (K, depth + 1): the mean squared error left at each level.
    """

    splits: Float[np.ndarray, "K H"]
    values: Float[np.ndarray, "K G"]
    errors: Float[np.ndarray, "K L"]

    @classmethod
    def fit(cls, samples: Float[np.ndarray, "N K"], depth: int) -> "ScalarQuantizer":
        """Fit to N samples of each of K numbers."""
        count = samples.shape[1]
        result = cls(np.zeros((count, 2**depth)), np.zeros((count, 2 ** (depth + 1))), np.zeros((count, depth + 1)))
        for k in range(count):
            ordered = np.sort(samples[:, k])
            _split(ordered, result.splits[k], result.values[k])
            for level in range(depth + 1):
                result.errors[k, level] = np.mean((ordered - result.rounded(k, level, ordered)) ** 2)
        return result

    def select(self, which: Int[np.ndarray, " k"]) -> "ScalarQuantizer":
        """Return the quantizers of the numbers `which`."""
        return ScalarQuantizer(self.splits[which], self.values[which], self.errors[which])

    def rounded(self, k: int, bits: int, samples: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """Quantize samples of number k to its first `bits` bits."""
        node = np.ones(len(samples), dtype=int)
        for _ in range(bits):
            node = 2 * node + (samples >= self.splits[k, node])
        return self.values[k, node]

    def edges(self, depths: Int[np.ndarray, " K"]) -> Float[np.ndarray, "K E"]:
        """Return the sorted boundaries between the cells of number k at level depths[k], padded with infinity."""
        result = np.full((len(depths), 2 ** int(depths.max(initial=0)) - 1), np.inf)
        for k, deep in enumerate(depths):
            result[k, : 2**deep - 1] = np.sort(self.splits[k, 1 : 2**deep])
        return result


def _split(ordered: np.ndarray, splits: np.ndarray, values: np.ndarray) -> None:
    """Fill in the nodes of one number from its sorted samples. What is below a cell not worth splitting equals it."""
    cells = {1: ordered}
    for node in range(1, len(values)):
        cell = cells.pop(node)
        values[node] = cell.mean() if len(cell) else values[node // 2]
        if node < len(splits):
            at = best_split(cell)
            splits[node] = (cell[at - 1] + cell[at]) / 2 if at else values[node]
            cells[2 * node], cells[2 * node + 1] = (cell[:at], cell[at:]) if at else (cell[:0], cell[:0])


def best_split(ordered: Float[np.ndarray, " N"]) -> int:
    """Return how many of the sorted samples go left to minimize the squared error; 0 if a split gains nothing."""
    count = len(ordered)
    if count < FEWEST or ordered[-1] - ordered[0] < 1e-12:
        return 0
    left = np.arange(1, count)
    sums = np.cumsum(ordered - ordered.mean())[:-1]
    gain = sums**2 / left + sums**2 / (count - left)
    gain[ordered[1:] <= ordered[:-1]] = 0  # equal samples stay together
    best = int(gain.argmax())
    return best + 1 if gain[best] > 0 else 0


def order(errors: Float[np.ndarray, "K L"], budget: int) -> Int[np.ndarray, " B"]:
    """Return which number each bit of a string refines: at most `budget` bits, that of the largest gain first.

    `errors[k, l]`: the squared error that l bits leave of number k. This is reverse water-filling (Cover and Thomas
    2006, ch. 10), bit by bit.
    """
    gains = np.pad(errors[:, :-1] - errors[:, 1:], ((0, 0), (0, 1)), constant_values=-np.inf)
    given, chosen = np.zeros(len(errors), dtype=int), []
    for _ in range(min(budget, len(errors) * (errors.shape[1] - 1))):
        best = int(np.argmax(gains[np.arange(len(errors)), given]))
        given[best] += 1
        chosen.append(best)
    return np.array(chosen, dtype=int)


@dataclass(frozen=True)
class BitPacking:
    """Packs a chunk's K numbers into `ids` ids of `bits` bits; bit j refines number `refines[j]`, or nothing (-1)."""

    quantizer: ScalarQuantizer
    refines: Int[np.ndarray, " B"]
    ids: int
    bits: int

    def depths(self, ids: int) -> Int[np.ndarray, " K"]:
        """Return how many bits of each number the first `ids` ids hold."""
        refined = self.refines[: ids * self.bits]
        return np.bincount(refined[refined >= 0], minlength=len(self.quantizer.values))

    def cells(self, numbers: Float[np.ndarray, "N K"]) -> Int[np.ndarray, "N K"]:
        """Return the cell of each number at its deepest level."""
        if len(numbers) <= FEW:
            return np.count_nonzero(numbers[:, :, None] >= self._edges, axis=-1)
        cells = np.empty(numbers.shape, dtype=np.int64)
        for k, among in enumerate(self._edges):
            cells[:, k] = np.searchsorted(among, numbers[:, k], side="right")
        return cells

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
        """For each prefix of n ids: the matrix from its bits to the numbers' cells, and each number's first node."""
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
