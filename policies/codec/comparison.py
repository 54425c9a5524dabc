"""Codes measured on chunks they were not fitted to: how much they keep, where they jump, what they cost."""

import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from policies.codec.baselines.beast import Beast
from policies.codec.baselines.bins import Bins
from policies.codec.baselines.fast import Fast
from policies.codec.codec import Codec
from policies.codec.training import windows_of

SHARES = (1 / 8, 1 / 4, 1 / 2)
"""Of its ids, after which a code is asked for its best guess."""

WITHIN = 1.3  # times the half range of the data: a decoded chunk outside is not valid
ROUNDING = 1e-6  # of float32
TIMED = 200  # chunks whose coding is timed, one by one


class Ordered:
    """Our codec in the baselines' manner: if it is relative, a chunk continues from where the one before ended."""

    def __init__(self, codec: Codec):
        self.codec, self.name, self.vocabulary = codec, "semagram", codec.vocabulary
        self.continues = codec.config.relative

    def encode(
        self, chunk: Float[np.ndarray, "*B T D"], start: Float[np.ndarray, "*B D"] | None = None
    ) -> Int[np.ndarray, "*B n"]:
        """The ids of a chunk that begins at `start`: of one chunk, only those that say something."""
        ids = self.codec.encode(chunk, start)
        return ids if ids.ndim > 1 else ids[: int(self.codec.said(ids))]

    def decode(
        self, ids: Int[np.ndarray, "*B n"], start: Float[np.ndarray, "*B D"] | None = None
    ) -> Float[np.ndarray, "*B T D"]:
        """The chunk."""
        return self.codec.decode(ids, start)

    prefix = decode


@dataclass(frozen=True)
class Measurement:
    """One line of the table. Errors in units of half the range of the data; `bits` and `ids` are a chunk's mean.

    `jump`: the step across the border of two chunks coded one after the other, less the true one; `chained`: the error
    of the second of them; `valid`: the share of random id strings that decode within bounds; `prefix_rmse`: after an
    eighth, a quarter and half of the ids; times in microseconds for one chunk alone, and within a batch.
    """

    codec: str
    bits: float
    ids: float
    rmse: float
    max_error: float
    jump: float
    chained: float
    valid: float
    prefix_rmse: list[float]
    encode_us: float
    decode_us: float
    encode_batch_us: float | None = None
    decode_batch_us: float | None = None


def baselines(chunks: Float[np.ndarray, "N T D"], seconds: float) -> list:
    """The codes to compare with, fitted to the chunks (scaled, in [-1, 1]): FAST finely and coarsely, BEAST, bins."""
    points = max(6, round(10 * seconds))
    return [Bins(chunks), Fast(chunks, 10), Fast(chunks, 4), Beast(chunks, points)]


def measure(code, episodes: list[np.ndarray], length: int, strings: int, rng: np.random.Generator) -> Measurement:
    """Measure a code on scaled held-out episodes: chunks of `length` steps at every quarter of a length."""
    windows = windows_of(episodes, length + 1, max(1, length // 4))
    chunks, start = windows[:, 1:], windows[:, 0]
    known = [(s,) if code.continues else () for s in start]
    written = [code.encode(x, *s) for x, s in zip(chunks, known, strict=True)]
    error = np.array([code.decode(ids, *s) for ids, s in zip(written, known, strict=True)]) - chunks
    count = float(np.mean([len(ids) for ids in written]))
    guesses = [
        rms([code.prefix(_share(ids, share), *s) - x for ids, x, s in zip(written, chunks, known, strict=True)])
        for share in SHARES
    ]
    jump, chained = _joined(code, episodes, length)
    return Measurement(
        code.name,
        count * float(np.log2(code.vocabulary)),
        count,
        rms(error),
        float(np.abs(error).max()),
        jump,
        chained,
        _valid(code, written, start, strings, rng),
        guesses,
        *_single(code, chunks, known, written),
        *(_batch(code, chunks, start) if code.continues else ()),
    )


def _share(ids: np.ndarray, share: float) -> np.ndarray:
    return ids[: max(1, round(share * len(ids)))]


def rms(errors) -> float:
    """Root mean square of all numbers."""
    return float(np.sqrt(np.mean(np.square(errors))))


def _joined(code, episodes: list[np.ndarray], length: int) -> tuple[float, float]:
    """The mean jump at the border of two chunks in a row, and the second one's error."""
    jumps, errors = [], []
    for two in windows_of(episodes, 2 * length + 1, max(1, length // 4)):
        start, first, second = two[0], two[1 : length + 1], two[length + 1 :]
        before = _again(code, first, start)
        after = _again(code, second, before[-1])
        jumps.append(np.abs((after[0] - before[-1]) - (second[0] - first[-1])).mean())
        errors.append(after - second)
    return float(np.mean(jumps)), rms(errors)


def _again(code, chunk: np.ndarray, start: np.ndarray) -> np.ndarray:
    known = (start,) if code.continues else ()
    return code.decode(code.encode(chunk, *known), *known)


def _valid(code, written: list[np.ndarray], start: np.ndarray, strings: int, rng: np.random.Generator) -> float:
    """The share of random strings, as long as real ones, that decode within bounds."""
    if code.continues:
        from_where = start[rng.integers(len(start), size=strings)]
        ids = rng.integers(code.vocabulary, size=(strings, max(map(len, written))))
        good = 0
        for some in range(0, strings, 1000):
            chunks = code.decode(ids[some : some + 1000], from_where[some : some + 1000])
            good += int((np.abs(chunks).max((1, 2)) <= WITHIN + ROUNDING).sum())
        return good / strings
    good = 0
    for _ in range(strings):
        ids = rng.integers(code.vocabulary, size=len(written[rng.integers(len(written))]))
        try:
            good += bool(np.abs(code.decode(ids)).max() <= WITHIN + ROUNDING)
        except ValueError:  # the string stands for no chunk
            continue
    return good / strings


def _single(code, chunks: np.ndarray, known: list, written: list[np.ndarray]) -> tuple[float, float]:
    """Microseconds of one core to encode and to decode one chunk, one call each."""
    some = range(min(TIMED, len(chunks)))
    begin = time.thread_time()
    for i in some:
        code.encode(chunks[i], *known[i])
    between = time.thread_time()
    for i in some:
        code.decode(written[i], *known[i])
    return (between - begin) / len(some) * 1e6, (time.thread_time() - between) / len(some) * 1e6


def _batch(code, chunks: np.ndarray, start: np.ndarray) -> tuple[float, float]:
    """The same for a chunk of a batch."""
    begin = time.thread_time()
    ids = code.encode(chunks, start)
    between = time.thread_time()
    code.decode(ids, start)
    return (between - begin) / len(chunks) * 1e6, (time.thread_time() - between) / len(chunks) * 1e6
