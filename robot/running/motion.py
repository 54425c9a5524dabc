"""The current motion: a curve, step by step; past its end a tail that comes to rest, then a hold."""

import numpy as np

from sim.so101.targets import Targets

TAIL_S = 0.2


class Motion:
    """Joint targets (6,) in rad, one per control step, from curves of actions (L, 6) in [-1, 1].

    If a curve ends before the next begins, the target keeps its rate, at most `Targets.step` a control step, which
    falls linearly to 0 over TAIL_S; then it stays.
    """

    def __init__(self, targets: Targets, control_hz: float):
        self._targets = targets
        self._tail = max(1, round(TAIL_S * control_hz))
        self._actions: np.ndarray = np.zeros((0, 6))
        self._at = self._past = 0
        self._moved: np.ndarray = np.zeros(6)

    @property
    def left(self) -> int:
        """Steps of the current curve still to come; 0 in the tail or at rest."""
        return len(self._actions) - self._at

    @property
    def still(self) -> bool:
        """Whether the target stays where it is."""
        return not self.left and (self._past >= self._tail or not self._moved.any())

    def begin(self, actions: np.ndarray) -> None:
        """Follow this curve from the next step on."""
        self._actions, self._at, self._past = np.asarray(actions, float), 0, 0

    def next(self, last: np.ndarray) -> np.ndarray:
        """Return the next target (6,) in rad, given the last target that was actually sent."""
        if self.left:
            target = self._targets.next(last, self._actions[self._at])
            self._at += 1
            self._moved = np.clip(target - last, -self._targets.step, self._targets.step)
            return target
        self._past += 1
        share = max(0.0, 1 - self._past / (self._tail + 1))
        return np.clip(last + share * self._moved, self._targets.low, self._targets.high)

    def ahead(self, last: np.ndarray) -> np.ndarray:
        """Return the targets (left, 6) in rad of the rest of the curve, if nothing stops it."""
        rest = []
        for action in self._actions[self._at :]:
            last = self._targets.next(last, action)
            rest.append(last)
        return np.array(rest).reshape(-1, 6)
