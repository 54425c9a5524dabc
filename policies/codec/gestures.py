"""The gestures that make up a robot's chunks: channels, manners and levels, learned from the corners of its data."""

import numpy as np
from jaxtyping import Float

from policies.codec.companding import best_split
from policies.codec.corners import Corners
from policies.codec.settings import CodecConfig
from policies.codec.tracing import MANNERS, ROWS, trace

FINE = 129  # evenly spaced candidate levels of a channel, before its own levels are learned
SAMPLE = 400  # number of chunks whose corners are traced, about
ROUNDS = 10  # iterations of Lloyd's algorithm


def fit_corners(
    chunks: Float[np.ndarray, "N T D"], start: Float[np.ndarray, "N D"], config: CodecConfig
) -> Corners | None:
    """Fit corners to scaled chunks; None if the vocabulary is too small for two gestures per channel."""
    length, width = chunks.shape[1:]
    gestures = (2**config.bits - 1) // length
    if gestures < 2 * width:
        return None
    some = slice(None, None, max(1, len(chunks) // SAMPLE))
    worth = config.worth**2 * length * width
    return Corners(*learn(chunks[some], start[some], gestures, worth), length, width, config.ids, worth)


def learn(
    chunks: Float[np.ndarray, "N T D"], start: Float[np.ndarray, "N D"], gestures: int, worth: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return channel, manner and level (G,) of at most `gestures` gestures that describe the scaled chunks best.

    Where more pairs of channel and manner occur than there may be gestures, the rarest are left out, except for the
    commonest of each channel; so there must be at least as many gestures as channels. Without any corners G is 0.
    `worth`: the least squared error that a corner must save.
    """
    fine = np.linspace(chunks.min((0, 1)), chunks.max((0, 1)), FINE, axis=1)
    found: dict[tuple[int, int], np.ndarray] = {}
    for c in range(chunks.shape[2]):
        levels = np.broadcast_to(fine[c], (1, len(MANNERS), FINE))
        pieces = [
            _corners(chunks[i : i + ROWS, :, c], start[i : i + ROWS, c], levels, worth)
            for i in range(0, len(chunks), ROWS)
        ]
        value, manner, weight = (np.concatenate(part) for part in zip(*pieces, strict=True))
        for m in range(len(MANNERS)):
            of = manner == m
            if of.any():
                found[c, m] = np.repeat(value[of], weight[of])
    if not found:
        return np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.zeros(0)
    chosen = shared_levels(_commonest(found, gestures), gestures)
    rows = [(c, m, level) for (c, m), levels in chosen.items() for level in levels]
    channel, manner, level = (np.array(part) for part in zip(*rows, strict=True))
    return channel, manner, level


def _commonest(found: dict[tuple[int, int], np.ndarray], count: int) -> dict[tuple[int, int], np.ndarray]:
    """Return the `count` pairs of channel and manner with most corners, but first each channel's own commonest."""
    ranked = sorted(found, key=lambda pair: len(found[pair]), reverse=True)
    first = {channel: (channel, manner) for channel, manner in reversed(ranked)}.values()
    kept = [*first, *(pair for pair in ranked if pair not in first)][:count]
    return {pair: found[pair] for pair in sorted(kept)}


def _corners(signal: np.ndarray, start: np.ndarray, levels: np.ndarray, worth: float) -> tuple[np.ndarray, ...]:
    """Return values and manners of the signals' corners, and each one's weight: 1 + the steps until the next corner."""
    path = trace(
        signal, start, np.broadcast_to(levels, (len(signal), *levels.shape[1:])), np.full(len(signal), worth), 1
    )
    until = np.concatenate([np.full((len(signal), 1), signal.shape[1]), path.when[:, :-1]], axis=1)
    until = np.where(until > 0, until, signal.shape[1])
    real = path.when > 0
    return path.value[real], path.manner[real], (1 + until - path.when)[real]


def shared_levels(samples: dict[tuple[int, int], np.ndarray], count: int) -> dict[tuple[int, int], np.ndarray]:
    """Distribute `count` levels over all keys (at least one each): split the cell with the largest squared error."""
    cells = [(key, np.sort(values)) for key, values in samples.items()]
    errors = [_scatter(values) for _, values in cells]
    while len(cells) < count and max(errors) > 0:
        worst = int(np.argmax(errors))
        key, values = cells.pop(worst)
        errors.pop(worst)
        at = best_split(values)
        for half in (values[:at], values[at:]) if at else (values,):
            cells.append((key, half))
            errors.append(_scatter(half) if at else 0.0)
    means = {key: np.sort([v.mean() for k, v in cells if k == key]) for key in samples}
    return {key: _settled(np.sort(values), means[key]) for key, values in samples.items()}


def _scatter(values: np.ndarray) -> float:
    return float(((values - values.mean()) ** 2).sum())


def _settled(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Refine the levels by a few of Lloyd's iterations: each becomes the mean of its nearest values (Lloyd 1982)."""
    for _ in range(ROUNDS):
        borders = np.searchsorted(values, (levels[1:] + levels[:-1]) / 2)
        parts = np.split(values, borders)
        levels = np.array([part.mean() if len(part) else level for part, level in zip(parts, levels, strict=True)])
    return levels
