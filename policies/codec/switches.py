"""What switches (a gripper, a mode) as events: when, to what level, in how many steps; a spline rings at every one."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float

from policies.codec.companding import Trees

PARTS = 3
"""Numbers of an event: the step it begins at (the chunk's length: none), the level it goes to, the steps it takes."""

STILL = 0.01  # scaled; a channel that moves less in a step rests on a level
WORTH = 1e-4  # the squared error, summed over a chunk, below which no event is looked for
SHARP = 2e-3  # of a channel's variance: how closely its levels must stand for all values it rests on
LEVELS = 3  # doublings of the number of levels
LONGEST = 30  # steps that an event takes at most
BATCH = 256


@dataclass(frozen=True)
class Switches:
    """The channels that switch, at most `slots` times in a chunk of `length` steps, to one of `levels` in `durations`.

    With s_0 where the channel is, s_e the level of event e, w_e and d_e its begin and duration in steps, the channel is
    s_0 + sum_e (s_e - s_{e-1}) r_e(t), r_e(t) = clip((t - w_e) / d_e, 0, 1), at t = 1 .. length.
    """

    channels: tuple[int, ...]
    levels: Float[np.ndarray, "C M"]
    durations: tuple[float, ...]
    slots: int
    length: int

    @property
    def count(self) -> int:
        """Numbers of a chunk's events."""
        return len(self.channels) * self.slots * PARTS

    def numbers(self, chunk: Float[np.ndarray, "N T D"], start: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N P"]:
        """The events (channel by channel, slot by slot) that fit the scaled chunks best."""
        found = np.empty((len(chunk), len(self.channels), self.slots, PARTS))
        for c, channel in enumerate(self.channels):
            for some in range(0, len(chunk), BATCH):
                rows = slice(some, some + BATCH)
                target, base = chunk[rows, :, channel], start[rows, channel]
                found[rows, c] = fit_events(target, base, self.levels[c], self.slots, bank(self.length, self.durations))
        return found.reshape(len(chunk), -1)

    def render(self, numbers: Float[np.ndarray, "N P"], start: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N T C"]:
        """The switching channels, scaled, as the events say."""
        events = numbers.reshape(len(numbers), len(self.channels), self.slots, PARTS)
        return render(events, start[:, self.channels], self.length)


def render(events: np.ndarray, base: np.ndarray, length: int) -> np.ndarray:
    """Events (N, C, E, PARTS) from `base` (N, C) as signals (N, length, C)."""
    level = np.concatenate([base[:, :, None], events[..., 1]], axis=-1)
    heights = level[..., 1:] - level[..., :-1]
    time = np.arange(1, length + 1)[:, None, None]
    ramps = np.clip((time - events[:, None, :, :, 0]) / np.maximum(events[:, None, :, :, 2], 1), 0, 1)
    return base[:, None] + (ramps * heights[:, None]).sum(-1)


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


def fit_events(target: np.ndarray, base: np.ndarray, levels: np.ndarray, slots: int, known: Bank) -> np.ndarray:
    """Events (N, slots, PARTS) for the signals `target` (N, T) that begin at `base` (N,).

    One event after the other is put where it lowers the squared error most, before, between or after those there are.
    """
    count, length = target.shape
    events = np.empty((count, slots, PARTS))
    events[..., 0], events[..., 1], events[..., 2] = length, base[:, None], 1
    rows = np.arange(count)
    ramps = np.zeros((count, slots + 1, length))  # the last is always zero: nothing comes after
    for filled in range(slots):
        error = target[rows] - (
            render(events[rows, None], base[rows, None], length)[..., 0] if filled else base[:, None]
        )
        rows, error = _unexplained(rows, error)
        if not len(rows):
            break
        gain, place, ramp, level = _best(error, events[rows, :filled, 1], base[rows], ramps[rows], levels, known)
        for i, at, r, m in zip(*(a[gain > WORTH] for a in (rows, place, ramp, level)), strict=True):
            events[i, at + 1 : filled + 1], ramps[i, at + 1 : filled + 1] = events[i, at:filled], ramps[i, at:filled]
            events[i, at], ramps[i, at] = (known.when[r], levels[m], known.duration[r]), known.ramps[r]
            events[i, filled + 1 :, 1] = events[i, filled, 1]
        rows = rows[gain > WORTH]
    return events


def _unexplained(rows: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The signals whose error is worth an event."""
    left = np.einsum("nt,nt->n", error, error) > WORTH
    return (rows, error) if left.all() else (rows[left], error[left])


def _best(
    error: np.ndarray, before: np.ndarray, base: np.ndarray, ramps: np.ndarray, levels: np.ndarray, known: Bank
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The event that lowers each squared error most: by how much, its place among those before, its ramp and level.

    Between events e and e + 1 a new one at level s adds (s - s_e) (r - r_{e+1}) to the signal.
    """
    count = len(error)
    onto = error @ known.ramps.T
    found = []
    for place in range(before.shape[1] + 1):
        along = onto
        if place < before.shape[1]:
            after = ramps[:, place]
            along = onto - np.einsum("nt,nt->n", error, after)[:, None]
            energy = known.energy - 2 * after @ known.ramps.T + np.einsum("nt,nt->n", after, after)[:, None]
        else:
            energy = known.energy
        height = (levels - (before[:, place - 1, None] if place else base[:, None]))[:, :, None]
        gain = (height * (2 * along[:, None] - height * np.atleast_2d(energy)[:, None])).reshape(count, -1)
        best = gain.argmax(1)
        found.append((gain[np.arange(count), best], best))
    gains = np.stack([gain for gain, _ in found])
    place = gains.argmax(0)
    best = np.stack([best for _, best in found])[place, np.arange(count)]
    level, ramp = np.divmod(best, len(known.when))
    return gains.max(0), place, ramp, level


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
