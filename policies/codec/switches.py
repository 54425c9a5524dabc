"""What switches (a gripper, a mode) as events: when, to what level, in how many steps; a spline rings at every one."""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import Float

from policies.codec.companding import Trees

PARTS = 3
"""Numbers of an event: the step it begins at (the chunk's length: none), the level it goes to, the steps it takes."""

STILL = 0.01  # scaled; a channel that moves less in a step rests on a level
WORTH = 0.01  # the squared error, summed over a chunk, below which no event is looked for
SHARP = 2e-3  # of a channel's variance: how closely its levels must stand for all values it rests on
LEVELS = 3  # doublings of the number of levels
LONGEST = 30  # steps that an event takes at most
BATCH = 256
SWEEPS = 2  # over the events of a chunk that has several


@dataclass(frozen=True)
class Switches:
    """The channels that switch, at most `slots` times in a chunk of `length` steps, to `levels` in `durations`.

    With s_0 where the channel is, s_e the level of event e, w_e and d_e its begin and duration in steps, the channel is
    s_0 + sum_e (s_e - s_{e-1}) r_e(t), r_e(t) = clip((t - w_e) / d_e, 0, 1), at t = 1 .. length. `width`: D, of all.
    """

    channels: tuple[int, ...]
    levels: Float[np.ndarray, "C M"]
    durations: tuple[float, ...]
    slots: int
    length: int
    width: int

    @property
    def count(self) -> int:
        """Numbers of a chunk's events."""
        return len(self.channels) * self.slots * PARTS

    def numbers(self, chunk: Float[np.ndarray, "N T D"], start: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N P"]:
        """The events (channel by channel, slot by slot) that fit the scaled chunks best."""
        found = np.empty((len(chunk), len(self.channels), self.slots, PARTS))
        ramps = bank(self.length, self.durations)
        for c, channel in enumerate(self.channels):
            for some in range(0, len(chunk), BATCH):
                rows = slice(some, some + BATCH)
                change = chunk[rows, :, channel] - start[rows, channel, None]
                found[rows, c] = fit_events(change, start[rows, channel], self.levels[c], self.slots, ramps)
        return found.reshape(len(chunk), self.count)

    def signal(self, numbers: Float[np.ndarray, "N P"], start: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N T D"]:
        """What the events add to the start, scaled; zero in the channels that do not switch."""
        events = numbers.reshape(len(numbers), len(self.channels) * self.slots, PARTS)
        heights = rises(events[:, :, 1], start[:, self._places], self.slots)
        return ramps_of(events, self.length) @ (heights[:, :, None] * self._onto)

    @cached_property
    def _places(self) -> np.ndarray:
        return np.array(self.channels, dtype=int)

    @cached_property
    def _onto(self) -> np.ndarray:
        """Which channel each event moves (C E, D)."""
        return np.repeat(np.eye(self.width)[self._places], self.slots, axis=0)


def rises(level: Float[np.ndarray, "N CE"], start: Float[np.ndarray, "N C"], slots: int) -> Float[np.ndarray, "N CE"]:
    """How far each event goes: from the start, or the level of the event before, to its own."""
    if slots == 1:
        return level - start
    heights = level.reshape(len(level), level.shape[1] // slots, slots).copy()
    heights[:, :, 1:] -= heights[:, :, :-1].copy()
    heights[:, :, 0] -= start
    return heights.reshape(level.shape)


def ramps_of(events: Float[np.ndarray, "N E 3"], length: int) -> Float[np.ndarray, "N T E"]:
    """How much of each event has happened at each step: from 0 to 1."""
    ramps = (steps(length) - events[:, None, :, 0]) / events[:, None, :, 2]
    np.maximum(ramps, 0, out=ramps)
    return np.minimum(ramps, 1, out=ramps)


def changes(
    events: Float[np.ndarray, "N E 3"], start: Float[np.ndarray, " N"], length: int
) -> Float[np.ndarray, "N T"]:
    """What the events of one channel add to its start."""
    heights = rises(events[:, :, 1], start[:, None], events.shape[1])
    return np.einsum("nte,ne->nt", ramps_of(events, length), heights)


@cache
def steps(length: int) -> Float[np.ndarray, "T 1"]:
    """When the control steps of a chunk are: 1 .. length after its start."""
    return np.arange(1.0, length + 1)[:, None]


@dataclass(frozen=True)
class Bank:
    """Every ramp an event may be: when it begins, how long it takes, its samples and their squared length."""

    when: Float[np.ndarray, " R"]
    duration: Float[np.ndarray, " R"]
    ramps: Float[np.ndarray, "R T"]
    energy: Float[np.ndarray, " R"]


@cache
def bank(length: int, durations: tuple[float, ...]) -> Bank:
    """The ramps in a chunk of `length` steps."""
    when, duration = (a.ravel().astype(float) for a in np.meshgrid(np.arange(length), durations))
    ramps = np.clip((np.arange(1, length + 1) - when[:, None]) / duration[:, None], 0, 1)
    return Bank(when, duration, ramps, (ramps**2).sum(1))


def fit_events(change: np.ndarray, start: np.ndarray, levels: np.ndarray, slots: int, known: Bank) -> np.ndarray:
    """Events (N, slots, PARTS) for one channel that moves by `change` (N, T) from `start` (N,).

    One event after the other is put where it lowers the squared error most, before, between or after those there are;
    then each in turn is taken out and put where it is best among the others.
    """
    count, length = change.shape
    result = np.empty((count, slots, PARTS))
    result[..., 0], result[..., 1], result[..., 2] = length, start[:, None], 1
    rows, error, events = np.arange(count), change, result[:, :0]
    for filled in range(slots):
        left = np.einsum("nt,nt->n", error, error) > WORTH
        if not left.all():
            rows, error, events = rows[left], error[left], events[left]
        if not len(rows):
            break
        events, gain = _put(error, events, start[rows], levels, known)
        rows, events = rows[gain > WORTH], events[gain > WORTH]
        if not len(rows):
            break
        for _ in range(SWEEPS if filled else 0):
            for e in range(filled + 1):
                others = np.delete(events, e, axis=1)
                events, _ = _put(
                    change[rows] - changes(others, start[rows], length), others, start[rows], levels, known
                )
        result[rows, : filled + 1] = events
        if filled + 1 < slots:
            result[rows, filled + 1 :, 1] = events[:, -1:, 1]  # an event that does not happen changes no level
            error = change[rows] - changes(events, start[rows], length)
    return result


def _put(
    error: np.ndarray, events: np.ndarray, start: np.ndarray, levels: np.ndarray, known: Bank
) -> tuple[np.ndarray, np.ndarray]:
    """The events (N, E, PARTS) and one more, where it lowers the squared error most, and by how much.

    Between events e and e + 1 one at level s adds (s - s_e) (r - r_{e+1}) to the signal.
    """
    count, here = len(error), events.shape[1]
    onto, rows = error @ known.ramps.T, np.arange(count)
    ramps = ramps_of(events, error.shape[1]) if here else None
    found = []
    for place in range(here + 1):
        along, energy = onto, known.energy[None]
        if place < here:
            after = ramps[:, :, place]
            along = onto - np.einsum("nt,nt->n", error, after)[:, None]
            energy = known.energy - 2 * after @ known.ramps.T + np.einsum("nt,nt->n", after, after)[:, None]
        height = (levels - (events[:, place - 1, 1, None] if place else start[:, None]))[:, :, None]
        gain = (height * (2 * along[:, None] - height * energy[:, None])).reshape(count, len(levels) * len(known.when))
        best = gain.argmax(1)
        found.append((gain[rows, best], best))
    place, (gain, best) = np.zeros(count, dtype=int), found[0]
    for later in range(1, here + 1):
        better = found[later][0] > gain
        place[better] = later
        gain, best = np.where(better, found[later][0], gain), np.where(better, found[later][1], best)
    level, ramp = best // len(known.when), best % len(known.when)
    new = np.stack([known.when[ramp], levels[level], known.duration[ramp]], axis=1)[:, None]
    if not here:
        return new, gain
    order = np.argsort(np.concatenate([np.arange(here) + 0 * place[:, None], place[:, None] - 0.5], axis=1), axis=1)
    return np.take_along_axis(np.concatenate([events, new], axis=1), order[:, :, None], axis=1), gain


def any_duration(length: int) -> tuple[float, ...]:
    """The durations to try before it is known which there are."""
    return tuple(float(d) for d in range(1, 1 + min(LONGEST, max(1, length // 2))))


def resting_levels(signal: Float[np.ndarray, "N T"]) -> Float[np.ndarray, " M"] | None:
    """The few levels on which the signals rest, ascending; None for signals that rest anywhere, or hardly ever."""
    still = np.abs(np.diff(signal, axis=1)) < STILL
    resting = signal[:, 1:][still]
    if still.mean() < 0.25 or len(resting) < 4:
        return None
    tree = Trees.grow(resting[:: max(1, len(resting) // 20000), None], LEVELS)
    spread = max(float(np.var(signal)), 1e-9)
    depth = next((d for d in range(1, LEVELS + 1) if tree.errors[0, d] < SHARP * spread), 0)
    if depth == 0:
        return None
    return np.unique(tree.values[0, 2**depth : 2 ** (depth + 1)])
