"""Execution of a sentence at a control rate: motions become actions on one clock, other tokens become events."""

from collections.abc import Iterable, Iterator
from math import ceil

import numpy as np
from jaxtyping import Float

from policies.tokens.curves import design, final_slope
from policies.tokens.vocabulary import Ask, Grip, Look, Move, Stop, Token, checked
from worldmodel.strict import check

GRIP_S = 0.5  # seconds for which the position is held so that a gripper level set after the last motion is still sent


class Playback:
    """Iterator over (seconds since the beginning, an action (A,) in [-1, 1] or a Grip, Look, Ask or Stop), in order.

    Action n is due at (n + 1/2) / `rate_hz`. `position` (A,) and `rate` (A,), per second, are those at the end of what
    has been played so far, where the next sentence begins. A motion's first control point is moved to that position,
    so that the arm does not jump; a motion of degree 0, piecewise constant, is left as it is.

    A grip due after the end of the sentence happens at its end. `gripper` is the column of the actions that drives the
    gripper: there the last grip's level (-1 closed, 1 open) replaces the motions' values, and if no motion is left to
    send it, the position is held for GRIP_S. The arm comes to rest before a question, as before a stop. A stop's event
    is the last item, once rest is reached. `fastest` (A,), per second, limits the rate at which a motion is taken to
    end, since an arm that brakes first continues in that direction.
    """

    def __init__(
        self,
        sentence: Iterable[Token],
        position: Float[np.ndarray, " A"],
        rate_hz: float,
        rate: Float[np.ndarray, " A"] | None = None,
        gripper: int | None = None,
        fastest: Float[np.ndarray, " A"] | None = None,
    ):
        """Raises ValueError for an invalid sentence, one whose motions do not match `position` in width, a position
        outside [-1, 1], a rate that is not finite, or another value out of range.
        """
        self.sentence = checked(sentence)
        self.position = np.array(position, dtype=float)
        self.rate = np.zeros_like(self.position) if rate is None else np.array(rate, dtype=float)
        self.rate_hz, self.gripper = rate_hz, gripper
        self.fastest = np.full_like(self.position, np.inf) if fastest is None else np.array(fastest, dtype=float)
        self.clock = 0.0
        self.level: float | None = None
        self._set: float | None = None
        self._due: list[tuple[float, Grip]] = []
        self._done, self._items = 0, self._walk()
        check("", self, "rate_hz", above=0)
        if gripper is not None and gripper not in range(len(self.position)):
            raise ValueError(f"gripper={gripper}: from 0 to {len(self.position) - 1}, a column of the actions")
        if not (np.abs(self.position) <= 1).all() or not np.isfinite(self.rate).all():
            raise ValueError(f"position {self.position}, rate {self.rate}: position from -1 to 1, rate finite")
        for token in self.sentence:
            if isinstance(token, Move) and token.points.shape[1] != len(self.position):
                raise ValueError(f"move.points: {token.points.shape[1]} columns, the position has {len(self.position)}")

    def __iter__(self) -> Iterator[tuple[float, np.ndarray | Grip | Look | Ask | Stop]]:
        """Continue from where the last iteration stopped, even in the middle of a motion."""
        return self._items

    def _walk(self):
        for token in self.sentence:
            match token:
                case Move():
                    yield from self._move(token)
                case Grip():
                    self._due = sorted([*self._due, (self.clock + token.after, token)], key=lambda pair: pair[0])
                case Look():
                    yield from self._events(self.clock)
                    yield self.clock, token
                case Ask():
                    yield from self._rest(Stop().seconds)
                    yield from self._hold()
                    yield self.clock, token
                case Stop():
                    yield from self._rest(token.seconds)
                    yield from self._events(np.inf)
                    yield from self._hold()
                    yield self.clock, token
        yield from self._events(np.inf)
        yield from self._hold()

    def _move(self, move: Move):
        count, degree, seconds = len(move.points), move.degree, move.seconds
        points = move.points.copy()
        if degree > 0:
            points[0] = np.clip(self.position, -1, 1)
        yield from self._run(seconds, lambda s: design(s / seconds, count, degree) @ points)
        self.position = points[-1]
        self.rate = np.clip(final_slope(points, degree) / seconds, -self.fastest, self.fastest)

    def _rest(self, seconds: float):
        """Brake along y(t) = y + v T/3 (1 - (1 - t/T)^3) until T, then hold: the rate v (1 - t/T)^2 falls from v to 0.

        T is `seconds`, or less for a joint that would leave [-1, 1]: its braking distance v T/3 must fit.
        """
        start, rate = self.position, self.rate
        room = np.where(rate > 0, 1 - start, 1 + start)
        needed = np.abs(rate) * seconds / 3
        way = np.sign(rate) * np.minimum(needed, room)
        share = np.divide(np.abs(way), needed, out=np.ones_like(needed), where=needed > 0)
        lasts = np.maximum(seconds * share, 1e-9)
        yield from self._run(seconds, lambda s: start + way * (1 - (1 - np.minimum(s[:, None] / lasts, 1)) ** 3))
        self.position, self.rate = np.clip(start + way, -1, 1), np.zeros_like(rate)

    def _hold(self):
        """Hold the position for GRIP_S if a gripper level was set that no action has carried yet."""
        if self.gripper is not None and self.level != self._set:
            self.rate = np.zeros_like(self.rate)
            yield from self._run(GRIP_S, lambda s: np.tile(self.position, (len(s), 1)))

    def _run(self, seconds: float, curve):
        """Yield the actions due in the next `seconds`, by `curve` from times (n,) to (n, A), and events between."""
        begin, self.clock = self.clock, self.clock + seconds
        last = max(self._done, ceil(self.clock * self.rate_hz - 0.5 - 1e-9))  # one due at the end is the next run's
        times = (np.arange(self._done, last) + 0.5) / self.rate_hz
        self._done = last
        actions = np.clip(curve(times - begin), -1, 1) if len(times) else []
        for time, action in zip(times, actions, strict=True):
            yield from self._events(time)
            yield time, self._gripped(action)
        yield from self._events(self.clock)

    def _events(self, until: float):
        """Yield the grips due by time `until`."""
        while self._due and self._due[0][0] <= until:
            due, token = self._due.pop(0)
            self.level = token.level
            yield min(due, self.clock), token

    def _gripped(self, action: np.ndarray) -> np.ndarray:
        if self.gripper is not None and self.level is not None:
            action[self.gripper], self._set = 2 * self.level - 1, self.level
        return action
