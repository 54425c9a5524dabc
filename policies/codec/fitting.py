"""Fitting a codec to demonstrations: the channels that switch, the curves of the others, and the order of bits."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from policies.codec.events import PARTS, Events, all_ramps, any_duration, changes, fit_events, resting_levels
from policies.codec.quantizer import BitPacking, ScalarQuantizer, order
from policies.codec.spline_pca import SplinePCA
from policies.settings import CodecConfig
from policies.tokens.curves import design, ends
from worldmodel.errors import UserError


@dataclass(frozen=True)
class Scaling:
    """scaled = (value - middle) / half for each of D channels, so that most of the data lies in [-1, 1]."""

    middle: Float[np.ndarray, " D"]
    half: Float[np.ndarray, " D"]

    @classmethod
    def fit(cls, episodes: list[np.ndarray]) -> "Scaling":
        """Map the 1 % and 99 % quantiles of the episodes' steps to -1 and 1."""
        steps = np.concatenate(episodes)
        bottom, top = np.quantile(steps, [TAIL, 1 - TAIL], axis=0)
        # A channel that hardly ever leaves one value has equal quantiles: use its full range instead.
        flat = top - bottom < CONSTANT
        bottom, top = np.where(flat, steps.min(0), bottom), np.where(flat, steps.max(0), top)
        return cls((top + bottom) / 2, np.where(top - bottom < CONSTANT, 1.0, (top - bottom) / 2))

    def scale(self, values: np.ndarray) -> np.ndarray:
        """Scale values (..., D)."""
        return (values - self.middle) / self.half

    def unscale(self, scaled: np.ndarray) -> np.ndarray:
        """Convert scaled values (..., D) back to the channels' own units."""
        return scaled * self.half + self.middle


Parts = tuple[CodecConfig, Scaling, Events, SplinePCA, BitPacking]
"""The fields of a `Codec`, in order."""
Gains = list[tuple[tuple[int, ...], float]]
"""Groups of numbers to refine by a bit each, in order, and the squared error per chunk that each group saves."""

TAIL = 0.01  # share of the data beyond -1, and beyond 1
CONSTANT = 1e-6  # a channel that spans less than this does not move
DEPTH = 8  # largest number of bits of a number
EVENT_BITS = (8, 3, 3)  # and of an event's three parts
SLOTS = 4  # largest number of events of a channel in a chunk
ENOUGH = 0.7  # another slot is kept only if the squared error falls to this fraction or less
CLEARLY = 0.5  # events are preferred to a curve if they leave less than this fraction of the squared error
STRIDE = 3  # steps between the chunks that a codec is fitted to
SAMPLE = 400  # number of chunks used to compare alternatives, about


def fit(episodes: list[np.ndarray], config: CodecConfig, stride: int = STRIDE) -> Parts:
    """Fit the parts of a codec; see `Codec.fit`."""
    episodes = _checked(episodes, config.length)
    scaling = Scaling.fit(episodes)
    scaled = [np.clip(scaling.scale(e), -config.margin, config.margin) for e in episodes]
    windows = windows_of(scaled, config.length + 1, stride)
    start, chunks = windows[:, 0], windows[:, 1:]

    events = _find_events(chunks, start, config)
    happening = events.numbers(chunks, start)
    smooth = chunks - start[:, None] - events.signal(happening, start)
    spline = SplinePCA.fit(smooth, start, config)
    event_bits = _quantize_events(happening, config.length)
    quantizer = event_bits.followed_by(ScalarQuantizer.fit(spline.numbers(smooth, start), DEPTH))

    gains = _event_gains(chunks, start, happening, events, event_bits)
    for k, errors in enumerate(quantizer.errors[events.count :], events.count):
        gains.append([((k,), float(saved)) for saved in errors[:-1] - errors[1:]])
    refines = order(gains, config.ids * config.bits)
    used = np.union1d(np.arange(events.count), refines)  # the numbers that get a bit, and all of the events'
    unused = np.full(config.ids * config.bits - len(refines), -1)
    packing = BitPacking(
        quantizer.select(used), np.concatenate([np.searchsorted(used, refines), unused]), config.ids, config.bits
    )
    return config, scaling, events, spline.select(used[events.count :] - events.count), packing


def windows_of(episodes: list[np.ndarray], length: int, stride: int) -> Float[np.ndarray, "N L D"]:
    """Return all windows of `length` steps that begin at a multiple of `stride` in an episode."""
    return np.stack([e[i : i + length] for e in episodes for i in range(0, len(e) - length + 1, stride)])


def _checked(episodes: list[np.ndarray], length: int) -> list[np.ndarray]:
    episodes = [np.asarray(e, dtype=float) for e in episodes]
    if not episodes or any(e.ndim != 2 or e.shape[1] != episodes[0].shape[1] for e in episodes):
        raise ValueError(f"episodes: arrays (steps, D) of one D, not {sorted({e.shape[1:] for e in episodes})}")
    for i, episode in enumerate(episodes):
        if not np.isfinite(episode).all():
            raise ValueError(f"episode {i}: a number that is not finite")
    longest = max(map(len, episodes))
    if longest <= length:
        raise UserError(f"length={length}: below the longest episode's {longest} steps")
    return [e for e in episodes if len(e) > length]


def _find_events(chunks: np.ndarray, start: np.ndarray, config: CodecConfig) -> Events:
    """Determine the channels that switch: those that events describe clearly better than a curve."""
    length = config.length
    curves = design(ends(length), config.curve_points, config.degree)[:, 1:]
    beyond = np.eye(length) - curves @ np.linalg.pinv(curves)  # what no curve can follow
    sample = slice(None, None, max(1, len(chunks) // SAMPLE))
    found, slots, durations = {}, 1, {1.0}
    for channel in range(chunks.shape[2]) if config.events else ():
        change = chunks[sample, :, channel] - start[sample, channel, None]
        levels = resting_levels(chunks[:, :, channel])
        if levels is None or len(levels) < 2:
            continue
        events, error = _fewest_events(change, start[sample, channel], levels)
        if error < CLEARLY * np.mean((change @ beyond.T) ** 2):
            found[channel], slots = levels, max(slots, events.shape[1])
            durations |= _durations(events, length)
    most = max(map(len, found.values()), default=1)
    levels = np.array([np.pad(v, (0, most - len(v)), mode="edge") for v in found.values()]).reshape(len(found), most)
    return Events(tuple(found), levels, tuple(sorted(durations)), slots, length, chunks.shape[2])


def _fewest_events(change: np.ndarray, start: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, float]:
    """Fit as many events of any duration as a chunk needs; also return the mean squared error that they leave."""
    error, best = np.inf, np.empty((len(change), 0, PARTS))
    ramps = all_ramps(change.shape[1], any_duration(change.shape[1]))
    while best.shape[1] < SLOTS:
        events = fit_events(change, start, levels, best.shape[1] + 1, ramps)
        left = float(np.mean((changes(events, start, change.shape[1]) - change) ** 2))
        if left > ENOUGH * error:
            break
        error, best = left, events
    return best, error


def _durations(events: np.ndarray, length: int) -> set[float]:
    """Return the few durations that represent those of all events."""
    taken = events[events[..., 0] < length][:, 2]
    if not len(taken):
        return {1.0}
    return set(ScalarQuantizer.fit(taken[:, None], EVENT_BITS[2]).values[0, 2 ** EVENT_BITS[2] :].tolist())


def _quantize_events(numbers: np.ndarray, length: int) -> ScalarQuantizer:
    """Fit the quantizers of the numbers of events (N, P); of levels and durations, to the events that happen."""
    result = ScalarQuantizer.fit(numbers[:, :0], DEPTH)
    for k in range(numbers.shape[1]):
        happens = numbers[:, k - k % PARTS] < length
        samples = numbers[:, k] if k % PARTS == 0 or not happens.any() else numbers[happens, k]
        result = result.followed_by(ScalarQuantizer.fit(samples[:, None], DEPTH))
    result.values[::PARTS, 1] = length
    return result


def _event_gains(
    chunks: np.ndarray, start: np.ndarray, numbers: np.ndarray, events: Events, quantizer: ScalarQuantizer
) -> list[Gains]:
    """Return the groups of bits to spend on each event slot; together, as a beginning says nothing without a level."""
    sample = slice(None, None, max(1, len(chunks) // SAMPLE))
    numbers, start, chunks = numbers[sample], start[sample], chunks[sample]
    exact = numbers.copy()
    for k in range(numbers.shape[1]):
        exact[:, k] = quantizer.rounded(k, EVENT_BITS[k % PARTS], numbers[:, k])
    offers = []
    for first in range(0, numbers.shape[1], PARTS):
        moved = events.channels[first // PARTS // events.slots]

        def error(bits: tuple[int, ...], first=first, moved=moved) -> float:
            trial = exact.copy()
            for k, count in enumerate(bits, first):
                trial[:, k] = quantizer.rounded(k, count, numbers[:, k])
            left = events.signal(trial, start)[:, :, moved] - (chunks[:, :, moved] - start[:, moved, None])
            return float((left**2).sum(1).mean())

        offers.append(_greedy(error, first))
    return offers


def _greedy(error: Callable[[tuple[int, ...]], float], first: int) -> Gains:
    """Return groups of bits of one event, by the squared error (`error`) saved per bit, looking a few bits ahead."""
    at: tuple[int, ...] = (0, 0, 0)
    known = {at: error(at)}
    groups: Gains = []
    while True:
        ahead = [
            tuple(a + m for a, m in zip(at, more, strict=True))
            for more in np.ndindex(4, 3, 2)
            if any(more) and all(a + m <= most for a, m, most in zip(at, more, EVENT_BITS, strict=True))
        ]
        if not ahead:
            return groups
        known |= {bits: error(bits) for bits in ahead if bits not in known}
        best = max(ahead, key=lambda bits: (known[at] - known[bits]) / (sum(bits) - sum(at)))
        group = tuple(first + part for part in range(PARTS) for _ in range(best[part] - at[part]))
        groups.append((group, known[at] - known[best]))
        at = best
