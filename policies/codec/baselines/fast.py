"""FAST (Pertsch et al. 2025, arXiv 2501.09747): cosine transform, rounding, byte-pair encoding."""

import numpy as np
from jaxtyping import Float, Int
from scipy.fft import dct, idct
from tokenizers import Tokenizer, models, trainers

VOCABULARY = 1024
FIRST = 0x4E00  # first code point of a block of 20,000 characters that represent the integers


class Fast:
    """Chunks (T, D) as a varying number of ids: coefficients x `scale`, rounded, lowest frequency first, and merged."""

    continues = False

    def __init__(self, chunks: Float[np.ndarray, "N T D"], scale: float = 10):
        self.name, self.scale, self.shape = f"fast-{scale:g}", scale, chunks.shape[1:]
        coefficients = np.round(dct(chunks, axis=1, norm="ortho") * scale).astype(int).reshape(len(chunks), -1)
        self.low, self.high = int(coefficients.min()), int(coefficients.max())
        alphabet = [chr(FIRST + i) for i in range(self.high - self.low + 1)]
        self.pairs = Tokenizer(models.BPE())
        self.pairs.train_from_iterator(
            (self._text(row) for row in coefficients),
            trainers.BpeTrainer(
                vocab_size=max(VOCABULARY, len(alphabet) + VOCABULARY // 4),
                initial_alphabet=alphabet,
                show_progress=False,
                max_token_length=10_000,
            ),
        )
        words = self.pairs.get_vocab()
        self.vocabulary = len(words)
        self.numbers = {i: np.array([ord(c) - FIRST + self.low for c in word]) for word, i in words.items()}

    def _text(self, coefficients: np.ndarray) -> str:
        return "".join(map(chr, np.clip(coefficients, self.low, self.high) - self.low + FIRST))

    def _coefficients(self, ids: np.ndarray) -> np.ndarray:
        return np.concatenate([self.numbers[i] for i in ids.tolist()]) if len(ids) else np.zeros(0, dtype=int)

    def encode(self, chunk: Float[np.ndarray, "T D"]) -> Int[np.ndarray, " n"]:
        """Return the ids of a chunk."""
        coefficients = np.round(dct(chunk, axis=0, norm="ortho") * self.scale).astype(int).ravel()
        return np.array(self.pairs.encode(self._text(coefficients)).ids, dtype=np.int64)

    def decode(self, ids: Int[np.ndarray, " n"]) -> Float[np.ndarray, "T D"]:
        """Return the chunk of the ids. Raises ValueError if they do not represent T x D coefficients."""
        coefficients = self._coefficients(ids)
        if len(coefficients) != self.shape[0] * self.shape[1]:
            raise ValueError(f"ids of {len(coefficients)} coefficients: {self.shape[0] * self.shape[1]}")
        return idct(coefficients.reshape(self.shape) / self.scale, axis=0, norm="ortho")

    def prefix(self, ids: Int[np.ndarray, " n"]) -> Float[np.ndarray, "T D"]:
        """Guess the chunk from the first ids: missing coefficients are zero."""
        coefficients, whole = self._coefficients(ids), np.zeros(self.shape[0] * self.shape[1])
        count = min(len(coefficients), len(whole))
        whole[:count] = coefficients[:count]
        return idct(whole.reshape(self.shape) / self.scale, axis=0, norm="ortho")
