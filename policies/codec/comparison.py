"""Measurement of codes on held-out chunks: accuracy, jumps between chunks, and cost."""

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
"""Shares of its ids after which a code is asked for its best guess."""

WITHIN = 1.3  # bound on valid decoded chunks, in units of half the range of the data
ROUNDING = 1e-6  # tolerance for float32 rounding
TIMED = 200  # largest number of chunks that are timed one by one


class Ordered:
    """Our codec with the baselines' interface; if it is relative, a chunk starts where the previous one ended."""

    def __init__(self, codec: Codec):
        self.codec, self.name, self.vocabulary = codec, "semagram", codec.vocabulary
        self.continues = codec.config.relative

    def encode(
        self, chunk: Float[np.ndarray, "*B T D"], start: Float[np.ndarray, "*B D"] | None = None
    ) -> Int[np.ndarray, "*B n"]:
        """Return the ids of chunks that begin at `start`; for a single chunk only those that carry information."""
        ids = self.codec.encode(chunk, start)
        return ids if ids.ndim > 1 else ids[: int(self.codec.said(ids))]

    def decode(
        self, ids: Int[np.ndarray, "*B n"], start: Float[np.ndarray, "*B D"] | None = None
    ) -> Float[np.ndarray, "*B T D"]:
        """Return the chunks of the ids, or of a prefix of them."""
        return self.codec.decode(ids, start)

    prefix = decode


@dataclass(frozen=True)
class Measurement:
    """One row of the table. Errors are in units of half the range of the data; `bits` and `ids` are means per chunk.

    `jump`: mean absolute deviation from the true step across the border of two chunks coded in a row; `chained`: the
    RMS error of the second of them; `valid`: the share of random id strings that decode within bounds; `prefix_rmse`:
    RMS errors after 1/8, 1/4 and 1/2 of the ids; times: microseconds per chunk, coded alone and within a batch.
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
    """Fit the baselines to the chunks (scaled to [-1, 1]): bins, FAST at a fine and a coarse scale, and BEAST."""
    points = max(6, round(10 * seconds))
    return [Bins(chunks), Fast(chunks, 10), Fast(chunks, 4), Beast(chunks, points)]


def measure(code, episodes: list[np.ndarray], length: int, strings: int, rng: np.random.Generator) -> Measurement:
    """Measure a code on scaled held-out episodes, in chunks of `length` steps that begin every quarter of a length.

    `strings`: the number of random id strings that are decoded to measure validity.
    """
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
    """Return the root mean square of all entries."""
    return float(np.sqrt(np.mean(np.square(errors))))


def _joined(code, episodes: list[np.ndarray], length: int) -> tuple[float, float]:
    """Return the mean jump at the border of two chunks coded in a row, and the RMS error of the second one."""
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
    """Return the share of random strings, as long as real ones, that decode within bounds."""
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
        except ValueError:  # the string does not decode
            continue
    return good / strings


def _single(code, chunks: np.ndarray, known: list, written: list[np.ndarray]) -> tuple[float, float]:
    """Return the CPU microseconds of this thread to encode and to decode one chunk in a call of its own."""
    some = range(min(TIMED, len(chunks)))
    begin = time.thread_time()
    for i in some:
        code.encode(chunks[i], *known[i])
    between = time.thread_time()
    for i in some:
        code.decode(written[i], *known[i])
    return (between - begin) / len(some) * 1e6, (time.thread_time() - between) / len(some) * 1e6


def _batch(code, chunks: np.ndarray, start: np.ndarray) -> tuple[float, float]:
    """Return the CPU microseconds per chunk to encode and to decode all chunks as one batch."""
    begin = time.thread_time()
    ids = code.encode(chunks, start)
    between = time.thread_time()
    code.decode(ids, start)
    return (between - begin) / len(chunks) * 1e6, (time.thread_time() - between) / len(chunks) * 1e6
