"""Numbers to ids and back: each number's cell, the cells' bits in the string's order, the bits packed into ids."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from policies.codec.bits import IdString
from policies.codec.companding import Trees

FEW = 8  # chunks for which comparing with all edges at once is faster than a search for each number


@dataclass(frozen=True)
class Script:
    """How the K numbers of a chunk are written as ids, and read from any prefix of them."""

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
        """For each prefix of n ids: the matrix from its bits to the numbers' cells, and the first node of its level."""
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
        """The cell of each number at its full level; `numbers` are those from `first` on."""
        edges = self._edges[first : first + numbers.shape[1]]
        if len(numbers) <= FEW:
            return np.count_nonzero(numbers[:, :, None] >= edges, axis=-1)
        cells = np.empty(numbers.shape, dtype=np.int64)
        for k, among in enumerate(edges):
            cells[:, k] = np.searchsorted(among, numbers[:, k], side="right")
        return cells

    def rounded(self, cells: Int[np.ndarray, "N k"]) -> Float[np.ndarray, "N k"]:
        """The values that those cells of the first numbers stand for."""
        which = np.arange(cells.shape[1])
        return self.trees.values[which, 2 ** self._full[which] + cells]

    def write(self, cells: Int[np.ndarray, "N K"]) -> Int[np.ndarray, "N n"]:
        """The ids of the cells of all numbers."""
        number, shift, weights, said = self._places
        bits = (cells[:, number] >> shift) & said
        return (bits @ weights).astype(np.int64)

    def read(self, ids: Int[np.ndarray, "N n"]) -> Float[np.ndarray, "N K"]:
        """The numbers that a prefix of n ids stands for."""
        matrix, roots = self._prefixes[ids.shape[1]]
        bits = (ids[:, :, None] >> self._down) & 1
        return self.trees.values.take((bits.reshape(len(ids), len(matrix)) @ matrix).astype(np.int64) + roots)

    @cached_property
    def _down(self) -> np.ndarray:
        return np.arange(self.string.bits)[::-1]
