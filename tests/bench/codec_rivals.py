"""The codes that the codec is compared with, fitted to the same chunks (N, T, D) in [-1, 1]; none needs the start."""

import numpy as np
from scipy.fft import dct, idct
from tokenizers import Tokenizer, models, trainers

from policies.tokens.curves import design

BINS = 256


class Bins:
    """256 bins for every dimension of every step, as in RT-2 and OpenVLA (arXiv 2307.15818, 2406.09246)."""

    name, vocabulary = "bins", BINS

    def __init__(self, chunks, low=-1.0, high=1.0):
        self.shape, self.low, self.high = chunks.shape[1:], low, high

    def encode(self, chunk, start=None):
        """Return the T x D ids of a chunk (T, D), step by step."""
        return np.clip(np.round((chunk - self.low) / (self.high - self.low) * (BINS - 1)), 0, BINS - 1).ravel()

    def decode(self, ids, start=None):
        """Return the chunk of T x D ids; of fewer, a missing value repeats the row before, or is 0 in the first."""
        whole = np.full(self.shape[0] * self.shape[1], np.nan)
        whole[: len(ids)] = ids
        rows, held = self.low + whole.reshape(self.shape) / (BINS - 1) * (self.high - self.low), np.zeros(self.shape[1])
        for row in rows:
            held = np.where(np.isnan(row), held, row)
            row[:] = held
        return rows


class Beast:
    """BEAST (Zhou et al. 2025, arXiv 2506.06072): least-squares control points of clamped B-splines in 256 bins."""

    vocabulary = BINS

    def __init__(self, chunks, count=10):
        self.name = f"beast-{count}"
        self.basis = design(np.linspace(0, 1, chunks.shape[1]), count, 4)
        self.fit = np.linalg.solve(self.basis.T @ self.basis + 1e-8 * np.eye(count), self.basis.T)
        points = self.fit @ chunks
        low, high = np.quantile(points, (0.005, 0.995), axis=0)
        self.bins = Bins(points, np.minimum(-1, low.min(0)), np.maximum(1, high.max(0)))

    def encode(self, chunk, start=None):
        """Return the ids of a chunk, one control point after the other."""
        return self.bins.encode(self.fit @ chunk)

    def decode(self, ids, start=None):
        """Return the chunk of ids; a missing control point equals the last known one, or zero."""
        return self.basis @ self.bins.decode(ids)


class Fast:
    """FAST (Pertsch et al. 2025, arXiv 2501.09747): cosine transform, rounding, byte-pair encoding."""

    FIRST = 0x4E00  # first code point of a block of 20,000 characters that represent the integers

    def __init__(self, chunks, scale=10.0):
        self.name, self.scale, self.shape = f"fast-{scale:g}", scale, chunks.shape[1:]
        coefficients = np.round(dct(chunks, axis=1, norm="ortho") * scale).astype(int).reshape(len(chunks), -1)
        self.low, self.high = int(coefficients.min()), int(coefficients.max())
        alphabet = [chr(self.FIRST + i) for i in range(self.high - self.low + 1)]
        self.pairs = Tokenizer(models.BPE())
        settings = {"initial_alphabet": alphabet, "show_progress": False, "max_token_length": 10_000}
        trainer = trainers.BpeTrainer(vocab_size=max(1024, len(alphabet) + 256), **settings)
        self.pairs.train_from_iterator((self._text(row) for row in coefficients), trainer)
        words = self.pairs.get_vocab()
        self.vocabulary = len(words)
        self.numbers = {i: np.array([ord(c) - self.FIRST + self.low for c in word]) for word, i in words.items()}

    def _text(self, coefficients):
        return "".join(map(chr, np.clip(coefficients, self.low, self.high) - self.low + self.FIRST))

    def encode(self, chunk, start=None):
        """Return the ids of a chunk: coefficients x `scale`, rounded, lowest frequency first, and merged."""
        coefficients = np.round(dct(chunk, axis=0, norm="ortho") * self.scale).astype(int).ravel()
        return np.array(self.pairs.encode(self._text(coefficients)).ids)

    def decode(self, ids, start=None, whole=False):
        """Return the chunk of the ids, missing coefficients being zero.

        Raises ValueError if it is to be `whole` and the ids do not represent T x D coefficients.
        """
        known = np.concatenate([np.zeros(0), *(self.numbers[i] for i in ids.tolist())])
        size = self.shape[0] * self.shape[1]
        if whole and len(known) != size:
            raise ValueError(f"ids of {len(known)} coefficients: {size}")
        coefficients = np.concatenate([known, np.zeros(size)])[:size].reshape(self.shape)
        return idct(coefficients / self.scale, axis=0, norm="ortho")
