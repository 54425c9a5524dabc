"""Numbers as bits: each number's range is split in two where the squared error falls most, and its halves again.

A prefix of a number's bits names a larger cell, and every cell has the mean of the data in it as its value: so any
prefix decodes, to the best guess it allows. Nodes are numbered as in a heap: the root is 1, the children of h are 2h
and 2h + 1, so that the bits of a number, read after a leading 1, are its node. (Successive refinement: Equitz and Cover
1991; the split is Lloyd's of 1982 for two cells, exactly.)
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

FEWEST = 4  # samples in a cell that is split any further


@dataclass(frozen=True)
class Trees:
    """K trees of `depth` levels: where each node splits, its value, and the mean squared error left at each level."""

    splits: Float[np.ndarray, "K H"]
    values: Float[np.ndarray, "K G"]
    errors: Float[np.ndarray, "K L"]

    @classmethod
    def grow(cls, samples: Float[np.ndarray, "N K"], depth: int) -> "Trees":
        """Trees for K numbers from N samples of them."""
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
        """Bits that a number can have at most."""
        return self.errors.shape[1] - 1

    def of_numbers(self, which: Int[np.ndarray, " k"]) -> "Trees":
        """The trees of some of the numbers."""
        return Trees(self.splits[which], self.values[which], self.errors[which])

    def after(self, others: "Trees") -> "Trees":
        """The others' trees, then these, at this depth. Raises ValueError for others that are deeper."""
        if others.depth > self.depth:
            raise ValueError(f"depth {others.depth}: at most {self.depth}")
        pairs = zip((others.splits, others.values, others.errors), (self.splits, self.values, self.errors), strict=True)
        return Trees(*(np.concatenate([np.pad(a, ((0, 0), (0, b.shape[1] - a.shape[1]))), b]) for a, b in pairs))

    def edges(self, depths: Int[np.ndarray, " K"]) -> Float[np.ndarray, "K E"]:
        """The boundaries between the cells of number k at level depths[k], in order, then infinities."""
        result = np.full((len(depths), 2 ** int(depths.max(initial=0)) - 1), np.inf)
        for k, deep in enumerate(depths):
            result[k, : 2**deep - 1] = np.sort(self.splits[k, 1 : 2**deep])
        return result


def _grow(ordered: np.ndarray, node: int, levels: int, splits: np.ndarray, values: np.ndarray) -> None:
    """Fill in the node that holds the sorted samples, and those below it."""
    values[node] = ordered.mean()
    if levels == 0:
        return
    at = best_split(ordered)
    if at == 0:  # nothing to gain: both children say the same
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
    """How many of the sorted samples go left so that the squared error is least; 0 where a split brings nothing."""
    count = len(ordered)
    if count < FEWEST or ordered[-1] - ordered[0] < 1e-12:
        return 0
    left = np.arange(1, count)
    sums = np.cumsum(ordered - ordered.mean())[:-1]
    gain = sums**2 / left + sums**2 / (count - left)
    gain[ordered[1:] <= ordered[:-1]] = 0  # equal samples stay together
    best = int(gain.argmax())
    return best + 1 if gain[best] > 0 else 0
