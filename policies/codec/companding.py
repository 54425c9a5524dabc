"""Numbers as bits: a number's range is split in two where that reduces the squared error most, and recursively so.

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
class Trees:
    """K trees of `depth` levels.

    `splits` (K, 2^depth): where each inner node splits; `values` (K, 2^(depth + 1)): the value of each node; `errors`
    (K, depth + 1): the mean squared error left at each level.
    """

    splits: Float[np.ndarray, "K H"]
    values: Float[np.ndarray, "K G"]
    errors: Float[np.ndarray, "K L"]

    @classmethod
    def grow(cls, samples: Float[np.ndarray, "N K"], depth: int) -> "Trees":
        """Grow the trees of K numbers from N samples of each."""
        count = samples.shape[1]
        splits, values = np.zeros((count, 2**depth)), np.zeros((count, 2 ** (depth + 1)))
        errors = np.zeros((count, depth + 1))
        for k in range(count):
            ordered = np.sort(samples[:, k])
            _grow(ordered, 1, depth, splits[k], values[k])
            node = np.ones(len(ordered), dtype=int)
            for level in range(depth + 1):
                errors[k, level] = np.mean((ordered - values[k, node]) ** 2)
                if level < depth:
                    node = 2 * node + (ordered >= splits[k, node])
        return cls(splits, values, errors)

    @property
    def depth(self) -> int:
        """The largest number of bits of a number."""
        return self.errors.shape[1] - 1

    def of_numbers(self, which: Int[np.ndarray, " k"]) -> "Trees":
        """Return the trees of the numbers `which`."""
        return Trees(self.splits[which], self.values[which], self.errors[which])

    def after(self, others: "Trees") -> "Trees":
        """Concatenate the others' trees and these, at this depth. Raises ValueError if the others are deeper."""
        if others.depth > self.depth:
            raise ValueError(f"depth {others.depth}: at most {self.depth}")
        pairs = zip((others.splits, others.values, others.errors), (self.splits, self.values, self.errors), strict=True)
        return Trees(*(np.concatenate([np.pad(a, ((0, 0), (0, b.shape[1] - a.shape[1]))), b]) for a, b in pairs))

    def edges(self, depths: Int[np.ndarray, " K"]) -> Float[np.ndarray, "K E"]:
        """Return the sorted boundaries between the cells of number k at level depths[k], padded with infinity."""
        result = np.full((len(depths), 2 ** int(depths.max(initial=0)) - 1), np.inf)
        for k, deep in enumerate(depths):
            result[k, : 2**deep - 1] = np.sort(self.splits[k, 1 : 2**deep])
        return result


def _grow(ordered: np.ndarray, node: int, levels: int, splits: np.ndarray, values: np.ndarray) -> None:
    """Fill in the node that holds the sorted samples, and its descendants."""
    values[node] = ordered.mean()
    if levels == 0:
        return
    at = best_split(ordered)
    if at == 0:  # nothing to gain: all descendants get the same value
        splits[node] = values[node]
        _fill(node, levels, values[node], splits, values)
        return
    splits[node] = (ordered[at - 1] + ordered[at]) / 2
    _grow(ordered[:at], 2 * node, levels - 1, splits, values)
    _grow(ordered[at:], 2 * node + 1, levels - 1, splits, values)


def _fill(node: int, levels: int, value: float, splits: np.ndarray, values: np.ndarray) -> None:
    for level in range(1, levels + 1):
        below = slice(node << level, (node + 1) << level)
        values[below] = value
        if level < levels:
            splits[below] = value


def best_split(ordered: np.ndarray) -> int:
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
