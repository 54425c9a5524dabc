"""The motion under way: the current curve, step by step; past its end its tail to rest, then a hold."""

import numpy as np

from sim.so101.targets import Targets

TAIL_S = 0.2


class Motion:
    """Joint targets (6,) in rad, one a control step, from curves of actions (L, 6) in [-1, 1].

    With no next curve when one ends, the target goes on with the rate it had (or a tied target's fastest), falling
    evenly to 0 over TAIL_S, and stays. `left`: steps of the current curve still to come; 0: the tail, or at rest.
    """

    def __init__(self, targets: Targets, control_hz: float):
        self._targets = targets
        self._tail = max(1, round(TAIL_S * control_hz))
        self._actions = np.zeros((0, 6))
        self._at = self._past = 0
        self._moved = np.zeros(6)

    @property
    def left(self) -> int:
        """Steps of the current curve still to come."""
        return len(self._actions) - self._at

    @property
    def still(self) -> bool:
        """Whether the target stays where it is."""
        return not self.left and (self._past >= self._tail or not self._moved.any())

    def begin(self, actions: np.ndarray) -> None:
        """Follow this curve from the next step on."""
        self._actions, self._at, self._past = np.asarray(actions, float), 0, 0

    def next(self, last: np.ndarray) -> np.ndarray:
        """The next target (6,) in rad after the target that was really sent last."""
        if self.left:
            target = self._targets.next(last, self._actions[self._at])
            self._at += 1
            self._moved = np.clip(target - last, -self._targets.step, self._targets.step)
            return target
        self._past += 1
        share = max(0.0, 1 - self._past / (self._tail + 1))
        return np.clip(last + share * self._moved, self._targets.low, self._targets.high)

    def ahead(self, last: np.ndarray) -> np.ndarray:
        """The targets (left, 6) in rad of the rest of the curve, if nothing stops it."""
        rest = []
        for action in self._actions[self._at :]:
            last = self._targets.next(last, action)
            rest.append(last)
        return np.array(rest).reshape(-1, 6)
