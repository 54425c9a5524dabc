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

    @property
    def depth(self) -> int:
        """The largest number of bits of a number."""
        return self.errors.shape[1] - 1

    def select(self, which: Int[np.ndarray, " k"]) -> "ScalarQuantizer":
        """Return the quantizers of the numbers `which`."""
        return ScalarQuantizer(self.splits[which], self.values[which], self.errors[which])

    def rounded(self, k: int, bits: int, samples: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """Quantize samples of number k to its first `bits` bits."""
        node = np.ones(len(samples), dtype=int)
        for _ in range(bits):
            node = 2 * node + (samples >= self.splits[k, node])
        return self.values[k, node]


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

    def pack(self, numbers: Float[np.ndarray, "N K"]) -> Int[np.ndarray, "N n"]:
        """Return the ids of all numbers."""
        splits, node = self.quantizer.splits, np.ones(numbers.shape, dtype=int)
        first = np.arange(len(splits)) * splits.shape[1]
        for _ in range(self.quantizer.depth):
            node = 2 * node + (numbers >= splits.take(first + node))
        bits = (node[:, self.refines] >> self._below) & (self.refines >= 0)
        return bits.reshape(len(numbers), self.ids, self.bits) @ self._powers

    def unpack(self, ids: Int[np.ndarray, "N n"]) -> Float[np.ndarray, "N K"]:
        """Return the numbers of a prefix of n ids."""
        known = ids.shape[1] * self.bits
        used = np.flatnonzero(self.refines[:known] >= 0)
        which, count = self.refines[used], len(self.quantizer.values)
        depths = np.bincount(which, minlength=count)
        places = np.zeros((known, count))  # of each bit in its number's node
        places[used, which] = 2.0 ** (self._below[used] - self.quantizer.depth + depths[which])
        bits = ((ids[:, :, None] // self._powers) & 1).reshape(len(ids), known)
        first = 2**depths + np.arange(count) * self.quantizer.values.shape[1]
        return self.quantizer.values.take((bits @ places).astype(int) + first)

    @cached_property
    def _powers(self) -> Int[np.ndarray, " b"]:
        """The place values of an id's bits, the first bit being the most significant."""
        return 2 ** np.arange(self.bits)[::-1]

    @cached_property
    def _below(self) -> Int[np.ndarray, " B"]:
        """How many finer bits each bit's number has below it, at the full depth."""
        before = [np.count_nonzero(self.refines[:j] == k) for j, k in enumerate(self.refines)]
        return self.quantizer.depth - 1 - np.array(before)
