"""256 bins for every dimension of every step, as in RT-2 and OpenVLA (arXiv 2307.15818, 2406.09246)."""

import numpy as np
from jaxtyping import Float, Int

BINS = 256


def to_bins(values: np.ndarray, low: float | np.ndarray = -1, high: float | np.ndarray = 1) -> np.ndarray:
    """Return the index of the nearest of BINS evenly spaced values from `low` to `high`."""
    return np.clip(np.round((values - low) / (high - low) * (BINS - 1)), 0, BINS - 1).astype(np.int64)


def from_bins(numbers: np.ndarray, low: float | np.ndarray = -1, high: float | np.ndarray = 1) -> np.ndarray:
    """Return the values of bins, inverting `to_bins`."""
    return low + numbers / (BINS - 1) * (high - low)


def resting(
    ids: Int[np.ndarray, " n"], shape: tuple[int, int], low: float | np.ndarray = -1, high: float | np.ndarray = 1
) -> Float[np.ndarray, "T D"]:
    """Decode the first of T x D ids, row by row; a missing value repeats the row before, or is 0 in the first row."""
    whole = np.full(shape[0] * shape[1], np.nan)
    whole[: len(ids)] = ids
    rows = from_bins(whole.reshape(shape), low, high)
    held: np.ndarray = np.zeros(shape[1])
    for row in rows:
        held = np.where(np.isnan(row), held, row)
        row[:] = held
    return rows


class Bins:
    """Chunks (T, D) in [-1, 1] as T x D ids, step by step."""

    name, vocabulary, continues = "bins", BINS, False

    def __init__(self, chunks: Float[np.ndarray, "N T D"]):
        self.shape = chunks.shape[1:]

    def encode(self, chunk: Float[np.ndarray, "T D"]) -> Int[np.ndarray, " n"]:
        """Return the ids of a chunk."""
        return to_bins(chunk).ravel()

    def decode(self, ids: Int[np.ndarray, " n"]) -> Float[np.ndarray, "T D"]:
        """Return the chunk of T x D ids. Raises ValueError for another number of ids."""
        return from_bins(ids).reshape(self.shape)

    def prefix(self, ids: Int[np.ndarray, " n"]) -> Float[np.ndarray, "T D"]:
        """Guess the chunk from the first ids: missing steps hold the last known value, or the middle of the range."""
        return resting(ids, self.shape)
