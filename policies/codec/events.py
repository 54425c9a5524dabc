"""Channels that switch (a gripper, a mode), as events: when, to what level, in how many steps; splines would ring."""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import Float

from policies.codec.quantizer import ScalarQuantizer

PARTS = 3
"""Numbers per event: the step it begins at (the chunk's length if there is no event), its level, its duration."""

STILL = 0.01  # scaled; a channel that moves less than this in a step is at rest
MIN_GAIN = 0.01  # least squared error, summed over a chunk, that an event must save
SHARP = 2e-3  # largest mean squared error of the levels as a share of the channel's variance
LEVEL_BITS = 3  # a channel has at most 2^LEVEL_BITS levels
LONGEST = 30  # longest duration of an event, in steps
BATCH = 256
SWEEPS = 2  # refinement passes over the events of a chunk with several


@dataclass(frozen=True)
class Events:
    """The channels that switch, at most `slots` times per chunk of `length` steps, to one of `levels`.

    With s_0 the channel's start, s_e the level of event e, and w_e and d_e its beginning and duration in steps, the
    signal is s_0 + sum_e (s_e - s_{e-1}) r_e(t), r_e(t) = clip((t - w_e) / d_e, 0, 1), at t = 1 .. length.
    `durations`: the possible d_e; `width`: D, the number of all channels.
    """

    channels: tuple[int, ...]
    levels: Float[np.ndarray, "C M"]
    durations: tuple[float, ...]
    slots: int
    length: int
    width: int

    @property
    def count(self) -> int:
        """P, the number of numbers that describe a chunk's events."""
        return len(self.channels) * self.slots * PARTS

    def numbers(self, chunk: Float[np.ndarray, "N T D"], start: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N P"]:
        """Fit events to scaled chunks; their numbers are ordered by channel, then slot, then part."""
        found = np.empty((len(chunk), len(self.channels), self.slots, PARTS))
        ramps = all_ramps(self.length, self.durations)
        for c, channel in enumerate(self.channels):
            for first in range(0, len(chunk), BATCH):
                rows = slice(first, first + BATCH)
                change = chunk[rows, :, channel] - start[rows, channel, None]
                found[rows, c] = fit_events(change, start[rows, channel], self.levels[c], self.slots, ramps)
        return found.reshape(len(chunk), self.count)

    def signal(self, numbers: Float[np.ndarray, "N P"], start: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N T D"]:
        """Return what the events add to the start, scaled; zero in the channels that do not switch."""
        events = numbers.reshape(len(numbers), len(self.channels) * self.slots, PARTS)
        heights = _heights(events[:, :, 1], start[:, self._places], self.slots)
        return _ramps_of(events, self.length) @ (heights[:, :, None] * self._onto)

    @cached_property
    def _places(self) -> np.ndarray:
        return np.array(self.channels, dtype=int)

    @cached_property
    def _onto(self) -> np.ndarray:
        """One-hot rows (C E, D): the channel that each event moves."""
        return np.repeat(np.eye(self.width)[self._places], self.slots, axis=0)


def changes(
    events: Float[np.ndarray, "N E 3"], start: Float[np.ndarray, " N"], length: int
) -> Float[np.ndarray, "N T"]:
    """Return what the events of one channel add to its start."""
    heights = _heights(events[:, :, 1], start[:, None], events.shape[1])
    return np.einsum("nte,ne->nt", _ramps_of(events, length), heights)


def _heights(level: np.ndarray, start: np.ndarray, slots: int) -> np.ndarray:
    """Return the height (N, C E) of each event: its level minus that of the event before, or minus the start (N, C)."""
    if slots == 1:
        return level - start
    before = level.reshape(len(level), level.shape[1] // slots, slots)
    return (before - np.concatenate([start[:, :, None], before[:, :, :-1]], axis=2)).reshape(level.shape)


def _ramps_of(events: np.ndarray, length: int) -> np.ndarray:
    """Return how much of each event has happened at each step (N, T, E), from 0 to 1."""
    ramps = (_steps(length) - events[:, None, :, 0]) / events[:, None, :, 2]
    np.maximum(ramps, 0, out=ramps)
    return np.minimum(ramps, 1, out=ramps)


@cache
def _steps(length: int) -> np.ndarray:
    """Return the times (T, 1) of a chunk's control steps, 1 .. length steps after its start."""
    return np.arange(1.0, length + 1)[:, None]


@dataclass(frozen=True)
class Ramps:
    """All possible ramps of an event: beginning, duration, samples, and the samples' squared norm."""

    when: Float[np.ndarray, " R"]
    duration: Float[np.ndarray, " R"]
    samples: Float[np.ndarray, "R T"]
    energy: Float[np.ndarray, " R"]


@cache
def all_ramps(length: int, durations: tuple[float, ...]) -> Ramps:
    """Return the ramps of these durations that begin within a chunk of `length` steps."""
    when, duration = (a.ravel().astype(float) for a in np.meshgrid(np.arange(length), durations))
    samples = np.clip((np.arange(1, length + 1) - when[:, None]) / duration[:, None], 0, 1)
    return Ramps(when, duration, samples, (samples**2).sum(1))


def fit_events(change: np.ndarray, start: np.ndarray, levels: np.ndarray, slots: int, ramps: Ramps) -> np.ndarray:
    """Fit events (N, slots, PARTS) to one channel that moves by `change` (N, T) from `start` (N,).

    Greedy: each new event is inserted where it lowers the squared error most, before, between or after the existing
    ones. Then each event in turn is removed and reinserted at the best place among the others.
    """
    count, length = change.shape
    result = np.empty((count, slots, PARTS))
    result[..., 0], result[..., 1], result[..., 2] = length, start[:, None], 1
    rows, error, events = np.arange(count), change, result[:, :0]
    for filled in range(slots):
        left = np.einsum("nt,nt->n", error, error) > MIN_GAIN
        if not left.all():
            rows, error, events = rows[left], error[left], events[left]
        if not len(rows):
            break
        events, gain = _insert(error, events, start[rows], levels, ramps)
        rows, events = rows[gain > MIN_GAIN], events[gain > MIN_GAIN]
        if not len(rows):
            break
        for e in (*range(filled + 1),) * (SWEEPS if filled else 0):
            others = np.delete(events, e, axis=1)
            error = change[rows] - changes(others, start[rows], length)
            events, _ = _insert(error, others, start[rows], levels, ramps)
        result[rows, : filled + 1] = events
        if filled + 1 < slots:
            result[rows, filled + 1 :, 1] = events[:, -1:, 1]  # an unused event keeps the last level
            error = change[rows] - changes(events, start[rows], length)
    return result


def _insert(
    error: np.ndarray, events: np.ndarray, start: np.ndarray, levels: np.ndarray, ramps: Ramps
) -> tuple[np.ndarray, np.ndarray]:
    """Insert one more event into events (N, E, PARTS) where it lowers the squared error most.

    Returns the events (N, E + 1, PARTS) and by how much the error falls (N,). A new event of level s and ramp r between
    events e and e + 1 adds (s - s_e) (r - r_{e+1}) to the signal.
    """
    count, present = len(error), events.shape[1]
    onto, existing = error @ ramps.samples.T, _ramps_of(events, error.shape[1])
    gain, chosen, best = np.full(count, -np.inf), np.zeros(count, dtype=int), np.zeros(count, dtype=int)
    for place in range(present + 1):
        along, energy = onto, ramps.energy[None]
        if place < present:
            after = existing[:, :, place]
            along = onto - np.einsum("nt,nt->n", error, after)[:, None]
            energy = ramps.energy - 2 * after @ ramps.samples.T + np.einsum("nt,nt->n", after, after)[:, None]
        height = (levels - (events[:, place - 1, 1, None] if place else start[:, None]))[:, :, None]
        falls = (height * (2 * along[:, None] - height * energy[:, None])).reshape(count, -1)
        at = falls.argmax(1)
        better = (fall := falls[np.arange(count), at]) > gain
        gain, chosen, best = np.where(better, (fall, np.full(count, place), at), (gain, chosen, best))
    level, ramp = np.divmod(best.astype(int), len(ramps.when))
    new = np.stack([ramps.when[ramp], levels[level], ramps.duration[ramp]], axis=1)[:, None]
    order = np.argsort(np.concatenate([np.tile(np.arange(present), (count, 1)), chosen[:, None] - 0.5], axis=1), axis=1)
    return np.take_along_axis(np.concatenate([events, new], axis=1), order[:, :, None], axis=1), gain


def any_duration(length: int) -> tuple[float, ...]:
    """Return the candidate durations to try before the data's own are known."""
    return tuple(float(d) for d in range(1, 1 + min(LONGEST, max(1, length // 2))))


def resting_levels(signal: Float[np.ndarray, "N T"]) -> Float[np.ndarray, " M"] | None:
    """Return the few levels at which the signals rest, ascending; None if they rest anywhere, or hardly ever."""
    still = np.abs(np.diff(signal, axis=1)) < STILL
    resting = signal[:, 1:][still]
    if still.mean() < 0.25 or len(resting) < 4:
        return None
    found = ScalarQuantizer.fit(resting[:: max(1, len(resting) // 20000), None], LEVEL_BITS)
    allowed = SHARP * max(float(np.var(signal)), 1e-9)
    bits = next((b for b in range(1, LEVEL_BITS + 1) if found.errors[0, b] < allowed), 0)
    return np.unique(found.values[0, 2**bits : 2 ** (bits + 1)]) if bits else None
