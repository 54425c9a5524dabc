"""Scalar quantization: a number's range is split in two where that reduces the squared error most, recursively.

A prefix of a number's bits names a larger cell, and the value of a cell is the mean of the data in it, so any prefix
decodes to the best guess it allows. Nodes are numbered as in a heap: the root is 1, the children of h are 2h and
2h + 1, so that the bits of a number, read after a leading 1, are its node. (Successive refinement: Equitz and Cover
1991; the split solves the two-cell quantizer of Lloyd 1982 exactly.)
"""

from dataclasses import dataclass

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

    def select(self, which: Int[np.ndarray, " k"]) -> "ScalarQuantizer":
        """Return the quantizers of the numbers `which`."""
        return ScalarQuantizer(self.splits[which], self.values[which], self.errors[which])

    def followed_by(self, other: "ScalarQuantizer") -> "ScalarQuantizer":
        """Return the quantizers of these numbers and of the other's, which have the same depth."""
        pairs = ((self.splits, other.splits), (self.values, other.values), (self.errors, other.errors))
        return ScalarQuantizer(*(np.concatenate(pair) for pair in pairs))

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
