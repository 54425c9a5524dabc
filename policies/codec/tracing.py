"""The corners of a signal: when, at what level and how it turns, minimizing squared error plus a cost per corner.

Optimal segmentation by dynamic programming (Bellman 1961, On the approximation of curves by line segments): the best
path that ends in a corner at step t extends the best path that ends in some corner before it.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import Float, Int

MANNERS = ("jump", "line", "ease")
"""How a signal moves between corners: entirely in the last step; linearly; slowly, then fast, then slowly again."""

ROWS = 256  # number of signals traced at once


def progress(u: np.ndarray) -> Float[np.ndarray, " M *s"]:
    """Return each manner's progress, from 0 to 1, at the fraction u of the time between two corners."""
    return np.stack([np.where(u >= 1, 1.0, 0.0), u, u * u * (3 - 2 * u)])


@dataclass(frozen=True)
class Path:
    """The corners of R signals, last corner first: at step `when` (0: unused entry), to level `which`, in a `manner`.

    `which` is an index into the manner's levels and `value` that level; `saves`: by how much the squared error would
    grow without the corner.
    """

    when: Int[np.ndarray, "R E"]
    manner: Int[np.ndarray, "R E"]
    which: Int[np.ndarray, "R E"]
    value: Float[np.ndarray, "R E"]
    saves: Float[np.ndarray, "R E"]


def trace(
    signal: Float[np.ndarray, "R T"],
    start: Float[np.ndarray, " R"],
    levels: Float[np.ndarray, "R M L"],
    worth: Float[np.ndarray, " R"],
    nearest: int,
) -> Path:
    """Find the optimal corners of signals that begin at `start` and may turn at `levels[row, manner]`.

    A corner has to lower the squared error by `worth`, and its level is one of the `nearest` ones to the signal at that
    step. Infinite levels are padding.
    """
    costs = Segments.of(signal)
    which, values, allowed = _candidates(signal, start, levels, min(nearest, levels.shape[2]))
    rows, length = signal.shape
    manner = np.repeat(np.arange(len(MANNERS)), values.shape[2] // len(MANNERS))
    states = values.shape[2]
    total = np.full((rows, states, length + 1), np.inf)
    total[:, 0, 0] = 0
    levels = np.ascontiguousarray(values.transpose(0, 2, 1))
    came = np.zeros((rows, length + 1, states), dtype=int)
    for t in range(1, length + 1):
        cost = costs.arriving(total[:, :, :t], levels[:, :, :t], values[:, t], t).reshape(rows, states, states * t)
        state, step = np.divmod(cost.argmin(2), t)
        came[:, t] = step * states + state
        total[:, :, t] = np.where(allowed[:, t], cost.min(2) + worth[:, None], np.inf)
    whole = (total.transpose(0, 2, 1) + costs.to_the_end(values)).reshape(rows, -1)
    return _followed(costs, whole.argmin(1), came, which, values, manner)


def _candidates(signal: np.ndarray, start: np.ndarray, levels: np.ndarray, nearest: int) -> tuple:
    """Return the nearest levels of every manner at each step from 0 (the start) to T.

    Three arrays (R, T + 1, M x nearest): the levels' indices, their values, and whether they exist.
    """
    away = np.abs(signal[:, :, None, None] - levels[:, None])
    near = np.argpartition(away, nearest - 1, axis=3)[..., :nearest]
    found = np.take_along_axis(away, near, 3) < np.inf
    values = np.where(found, np.take_along_axis(np.broadcast_to(levels[:, None], away.shape), near, 3), 0)
    flat = (*signal.shape, len(MANNERS) * nearest)
    first = np.broadcast_to(start[:, None, None], (len(signal), 1, flat[2]))
    nothing = np.zeros(first.shape, dtype=int)
    return (
        np.concatenate([nothing, near.reshape(flat)], axis=1),
        np.concatenate([first, values.reshape(flat)], axis=1),
        np.concatenate([nothing > 0, found.reshape(flat)], axis=1),
    )


@dataclass(frozen=True)
class Segments:
    """Sums over R signals x between any two steps i < j: sum x, sum x^2 and, for each manner, sum r x.

    The squared error of moving from a (at i) to a + h (at j) in a manner with progress r is
    sum (x - a)^2 - 2 h sum r (x - a) + h^2 sum r^2, each over the steps i + 1 .. j.
    """

    sums: Float[np.ndarray, "R T1 T1"]
    squares: Float[np.ndarray, "R T1 T1"]
    along: Float[np.ndarray, "R M T1 T1"]

    @classmethod
    def of(cls, signal: Float[np.ndarray, "R T"]) -> "Segments":
        """Compute the sums from cumulative moments of the signals about each step i."""
        length = signal.shape[1]
        at = np.arange(length + 1) / length
        powers = at[1:] ** np.arange(4)[:, None, None] * signal
        total = np.concatenate([np.zeros((4, len(signal), 1)), powers.cumsum(2)], axis=2)
        m0, m1, m2, m3 = total[:, :, None, :] - total[:, :, :, None]
        i = at[:, None]
        reach = np.where(at > i, at - i, 1)
        even = (m1 - i * m0) / reach
        eased = 3 * (m2 - 2 * i * m1 + i**2 * m0) / reach**2
        eased -= 2 * (m3 - 3 * i * m2 + 3 * i**2 * m1 - i**3 * m0) / reach**3
        last = np.broadcast_to(np.concatenate([np.zeros((len(signal), 1)), signal], axis=1)[:, None], m0.shape)
        square = np.concatenate([np.zeros((len(signal), 1)), (signal**2).cumsum(1)], axis=1)
        return cls(m0, square[:, None] - square[:, :, None], np.stack([last, even, eased], axis=1))

    def arriving(self, total: np.ndarray, a: np.ndarray, b: np.ndarray, t: int) -> np.ndarray:
        """Return the cost (R, M, K, S, t) of states b (R, M K) at t when coming from earlier states a (R, S, t).

        `total` (R, S, t) is the cost of reaching a. Evaluated as a polynomial in b, whose coefficients are the same for
        all states of one manner.
        """
        plain, squared = _sizes(self.sums.shape[1] - 1)[:, t:0:-1].transpose(0, 2, 1)[:, :, None]
        hold = total + self._squares[:, t, None, :t] + a * (a * np.arange(t, 0, -1.0) - 2 * self._sums[:, t, None, :t])
        a, b = a[:, None], b.reshape(len(b), len(MANNERS), -1, 1, 1)
        linear = self._along[:, :, t, None, :t] - a * plain
        curved = a * squared
        none = hold[:, None] + a * (2 * linear + curved)
        linear += curved
        linear *= -2
        cost = linear[:, :, None] + b * squared[:, None]
        cost *= b
        cost += none[:, :, None]
        return cost

    # Transposed copies, indexed by a segment's end first, so that all segments that end in one step are contiguous.

    @cached_property
    def _sums(self) -> np.ndarray:
        return np.ascontiguousarray(self.sums.swapaxes(1, 2))

    @cached_property
    def _squares(self) -> np.ndarray:
        return np.ascontiguousarray(self.squares.swapaxes(1, 2))

    @cached_property
    def _along(self) -> np.ndarray:
        return np.ascontiguousarray(self.along.swapaxes(2, 3))

    def to_the_end(self, values: np.ndarray) -> np.ndarray:
        """Return the squared errors (R, T + 1, S) of staying at `values` from each step to the end."""
        left = np.arange(values.shape[1] - 1, -1, -1.0)[:, None]
        return self.squares[:, :, -1, None] + values * (values * left - 2 * self.sums[:, :, -1, None])

    def between(self, i: np.ndarray, a: np.ndarray, j: np.ndarray, b: np.ndarray, manner: np.ndarray) -> np.ndarray:
        """Return the squared errors (R, E) of moving from a at step i to b at step j."""
        rows, height, reach = np.arange(len(i))[:, None], b - a, j - i
        sizes = _sizes(self.sums.shape[1] - 1)[:, reach, manner]
        rest = self.squares[rows, i, j] + a * (a * reach - 2 * self.sums[rows, i, j])
        return rest + height * (height * sizes[1] - 2 * (self.along[rows, manner, i, j] - a * sizes[0]))


@cache
def _sizes(length: int) -> Float[np.ndarray, "2 T1 M"]:
    """Return sum r and sum r^2 of every manner, for segments of 0 .. length steps."""
    shares = [progress(np.arange(1, reach + 1) / max(reach, 1)) for reach in range(length + 1)]
    return np.stack([[r.sum(1) for r in shares], [(r**2).sum(1) for r in shares]])


def _followed(
    costs: Segments, end: np.ndarray, came: np.ndarray, which: np.ndarray, values: np.ndarray, manner
) -> Path:
    """Trace the paths that lead to the states `end` (step x number of states + state) back, last corner first."""
    rows, states = np.arange(len(end)), values.shape[2]
    passed = [end]
    while (passed[-1] >= states).any():
        t, state = np.divmod(passed[-1], states)
        passed.append(np.where(t > 0, came[rows, t, state], 0))
    when, state = np.divmod(np.stack(passed, axis=1), states)
    across = rows[:, None]
    value, how = values[across, when, state], manner[state]
    later, last = np.full((len(end), 1), values.shape[1] - 1), value[:, :1]
    earlier = slice(1, None)
    until = np.concatenate([later, when[:, :-1]], axis=1)[:, : when.shape[1] - 1]
    level = np.concatenate([last, value[:, :-1]], axis=1)[:, : when.shape[1] - 1]
    arrives = np.concatenate([0 * later, how[:, :-1]], axis=1)[:, : when.shape[1] - 1]
    here, there = slice(None, -1), earlier
    onwards = np.where(np.arange(when.shape[1] - 1) == 0, value[:, there], level)  # it stays after the last corner
    saves = costs.between(when[:, there], value[:, there], until, onwards, arrives)
    saves -= costs.between(when[:, there], value[:, there], when[:, here], value[:, here], how[:, here])
    saves -= costs.between(when[:, here], value[:, here], until, level, arrives)
    return Path(when[:, here], how[:, here], which[across, when, state][:, here], value[:, here], saves)
