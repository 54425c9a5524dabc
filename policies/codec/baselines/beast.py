"""BEAST (Zhou et al. 2025, arXiv 2506.06072): least-squares control points of clamped B-splines in 256 bins."""

import numpy as np
from jaxtyping import Float, Int

from policies.codec.baselines.bins import BINS, from_bins, resting, to_bins
from policies.tokens.splines import design

DEGREE = 4
TAIL = 0.005
RIDGE = 1e-8


class Beast:
    """Chunks (T, D) as the `count` x D ids of a curve's control points, one control point after the other."""

    continues = False

    def __init__(self, chunks: Float[np.ndarray, "N T D"], count: int = 10):
        self.name, self.vocabulary, self.shape = f"beast-{count}", BINS, (count, chunks.shape[2])
        self.basis = design(np.linspace(0, 1, chunks.shape[1]), count, DEGREE)
        gram = self.basis.T @ self.basis + RIDGE * np.eye(count)
        self.fit = np.linalg.solve(gram, self.basis.T)
        points = self.fit @ chunks
        self.low = np.minimum(-1, np.quantile(points, TAIL, axis=0).min(0))
        self.high = np.maximum(1, np.quantile(points, 1 - TAIL, axis=0).max(0))

    def encode(self, chunk: Float[np.ndarray, "T D"]) -> Int[np.ndarray, " n"]:
        """Return the ids of a chunk."""
        return to_bins(self.fit @ chunk, self.low, self.high).ravel()

    def decode(self, ids: Int[np.ndarray, " n"]) -> Float[np.ndarray, "T D"]:
        """Return the chunk of `count` x D ids. Raises ValueError for another number of ids."""
        return self.basis @ from_bins(ids.reshape(self.shape), self.low, self.high)

    def prefix(self, ids: Int[np.ndarray, " n"]) -> Float[np.ndarray, "T D"]:
        """Guess the chunk from the first ids: a missing control point equals the last known one, or zero."""
        return self.basis @ resting(ids, self.shape, self.low, self.high)
