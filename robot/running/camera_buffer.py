"""Camera frames as the model takes them: resized, stacked with earlier ones, and marked if they are dark."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from sim.frames import middle, shows

DARK_S = 0.1
"""A camera that has shown nothing for this long is reported."""
BLIND_S = 1.0
"""How long an arm continues without sight if the model has no other sense of the scene."""


class CameraBuffer:
    """Keeps what cameras show, given by their keys in the robot's observations; without any it does nothing.

    `sizes`: the height and width in pixels that each camera's frames are resized to. `lags`: the model sees the frames
    of these many control steps ago together. `alone`: the model has no other sense of the scene. `say` gets a line when
    a camera shows nothing, and when it shows something again.
    """

    def __init__(
        self,
        sizes: Mapping[str, tuple[int, int]] = MappingProxyType({}),
        lags: Sequence[int] = (0,),
        alone: bool = False,
        hz: float = 1.0,
        say: Callable[[str], None] = print,
    ):
        self._sizes, self._lags, self._alone, self._hz, self._say = sizes, lags, alone, hz, say
        self._kept = max(lags) + 1  # frames
        self._frames: dict[str, deque[np.ndarray]] = {name: deque(maxlen=self._kept) for name in sizes}
        self._dark = dict.fromkeys(sizes, 0)  # control steps
        self._said: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """The cameras' names."""
        return tuple(self._sizes)

    def forget(self) -> None:
        """Drop the earlier frames: the next ones are an episode's first."""
        for frames in self._frames.values():
            frames.clear()

    def see(self, observation: dict, steps: int = 1) -> None:
        """Take in the frames (H, W, 3) of an observation, `steps` control steps after the last one.

        When a camera shows something again, its earlier frames are dropped, as in training (`worldmodel.frames`).
        """
        for name in self.names:
            frame, frames = middle(observation[name], *self._sizes[name]), self._frames[name]
            if self._dark[name]:
                frames.clear()
            if frames:
                frames.extend([frames[-1]] * min(steps - 1, self._kept))
            frames.append(frame)
            self._dark[name] = 0 if shows(frame) else self._dark[name] + steps
            if self._dark[name] >= DARK_S * self._hz and name not in self._said:
                self._said.add(name)
                self._say(f"camera {name}: frames of one colour; it counts as missing while that lasts")
            elif not self._dark[name] and name in self._said:
                self._said.discard(name)
                self._say(f"camera {name}: shows something again")

    @property
    def newest(self) -> dict[str, np.ndarray]:
        """The newest frame of each camera that has any, at the model's size."""
        return {name: frames[-1] for name, frames in self._frames.items() if frames}

    def now(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Return each camera's frame stack (F, H, W, 3) uint8, and which cameras show anything now, (C,) bool."""
        kept = [[frames[max(-1 - lag, -len(frames))] for lag in self._lags] for frames in self._frames.values()]
        there = np.array([not self._dark[name] for name in self.names], bool)
        return [np.stack(frames) for frames in kept], there

    @property
    def blind(self) -> bool:
        """Whether there has been nothing to act on for too long."""
        return self._alone and min(self._dark.values()) > BLIND_S * self._hz
