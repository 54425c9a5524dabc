"""Numbers to ids and back: each number's cell, the cells' bits in the string's order, and the bits packed into ids."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from policies.codec.bits import IdString
from policies.codec.companding import Trees

FEW = 8  # for at most this many chunks, comparing with all edges at once is faster than a binary search per number


@dataclass(frozen=True)
class Script:
    """Conversion of the K numbers of a chunk to ids, and from any prefix of the ids back to numbers."""

    trees: Trees
    string: IdString

    @cached_property
    def _full(self) -> Int[np.ndarray, " K"]:
        return self.string.depths(self.string.ids)

    @cached_property
    def _edges(self) -> Float[np.ndarray, "K E"]:
        return self.trees.edges(self._full)

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return (*self.string.places(), self.string.weights(), (self.string.refines >= 0).astype(int))

    @cached_property
    def _prefixes(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each prefix of n ids: the matrix from its bits to the numbers' cells, and each number's first node.

        First nodes are those of the level the prefix reaches, as indices into the flattened values of the trees.
        """
        refines, shifts = self.string.refines, self._places[1]
        result = []
        for n in range(self.string.ids + 1):
            depths = self.string.depths(n)
            seen = np.flatnonzero(refines[: n * self.string.bits] >= 0)
            matrix = np.zeros((n * self.string.bits, self.string.count))
            numbers = refines[seen]
            matrix[seen, numbers] = 2.0 ** (shifts[seen] - (self._full - depths)[numbers])
            result.append((matrix, 2**depths + np.arange(self.string.count) * self.trees.values.shape[1]))
        return result

    def cells(self, numbers: Float[np.ndarray, "N k"], first: int = 0) -> Int[np.ndarray, "N k"]:
        """Return the cell of each number at its deepest level; `numbers` are those from index `first` on."""
        edges = self._edges[first : first + numbers.shape[1]]
        if len(numbers) <= FEW:
            return np.count_nonzero(numbers[:, :, None] >= edges, axis=-1)
        cells = np.empty(numbers.shape, dtype=np.int64)
        for k, among in enumerate(edges):
            cells[:, k] = np.searchsorted(among, numbers[:, k], side="right")
        return cells

    def rounded(self, cells: Int[np.ndarray, "N k"]) -> Float[np.ndarray, "N k"]:
        """Return the values of the given cells of the first k numbers."""
        which = np.arange(cells.shape[1])
        return self.trees.values[which, 2 ** self._full[which] + cells]

    def write(self, cells: Int[np.ndarray, "N K"]) -> Int[np.ndarray, "N n"]:
        """Return the ids that encode the cells of all numbers."""
        number, shift, weights, said = self._places
        bits = (cells[:, number] >> shift) & said
        return (bits @ weights).astype(np.int64)

    def read(self, ids: Int[np.ndarray, "N n"]) -> Float[np.ndarray, "N K"]:
        """Return the numbers that a prefix of n ids encodes."""
        matrix, roots = self._prefixes[ids.shape[1]]
        bits = (ids[:, :, None] >> self._down) & 1
        return self.trees.values.take((bits.reshape(len(ids), len(matrix)) @ matrix).astype(np.int64) + roots)

    @cached_property
    def _down(self) -> np.ndarray:
        return np.arange(self.string.bits)[::-1]
