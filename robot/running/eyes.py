"""What an arm's cameras show, as its model takes it: small frames, those of before with them, and which are dark."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from sim.frames import middle, shows

DARK_S = 0.1
"""A camera that has shown nothing for so long is spoken of."""
BLIND_S = 1.0
"""Where nothing else says what happens, an arm goes on for so long without sight."""


class Eyes:
    """Looks through cameras, by the names that they have among the robot's observations; none: looks at nothing.

    `sizes`: height and width that each one's frames are brought to, in pixels; the model looks at those of `lags`
    control steps ago at once. `alone`: the model has no other sense of what happens. `say` gets a line when a camera
    shows nothing, and when it does again.
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
        self._frames = {name: deque(maxlen=max(lags) + 1) for name in sizes}
        self._dark = dict.fromkeys(sizes, 0)  # control steps
        self._said: set[str] = set()

    @property
    def cameras(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._sizes)

    def forget(self) -> None:
        """The next frames are an episode's first: before them there is nothing."""
        for frames in self._frames.values():
            frames.clear()

    def see(self, observation: dict, steps: int = 1) -> None:
        """Take in the frames (H, W, 3) of an observation, `steps` control steps after the last.

        Before a frame that shows something again there is nothing, as where a policy learns (`policies.frame_stack`).
        """
        for name in self.cameras:
            frame, frames = middle(observation[name], *self._sizes[name]), self._frames[name]
            if self._dark[name]:
                frames.clear()
            if frames:
                frames.extend([frames[-1]] * min(steps - 1, frames.maxlen))
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
        """The newest frame of each camera that has shown any, as the model takes it."""
        return {name: frames[-1] for name, frames in self._frames.items() if frames}

    def now(self) -> tuple[list[np.ndarray], np.ndarray]:
        """The frames (F, H, W, 3) uint8 of each camera, and which of them show anything, (C,) bool."""
        kept = [[frames[max(-1 - lag, -len(frames))] for lag in self._lags] for frames in self._frames.values()]
        there = np.array([not self._dark[name] for name in self.cameras], bool)
        return [np.stack(frames) for frames in kept], there

    @property
    def blind(self) -> bool:
        """Whether there has been nothing to act by, for too long."""
        return self._alone and min(self._dark.values()) > BLIND_S * self._hz
