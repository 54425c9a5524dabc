"""An arm's cameras as the model takes them. One without its cable shows black, i.e. missing, until it is back."""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from lerobot.cameras import Camera

from sim.renderer import middle, shows
from worldmodel.errors import in_one_line
from worldmodel.observation import FrameHistory, Observation
from worldmodel.senses import IMAGE_KEY_PREFIX

AGAIN_S, LEAVE_S = 1.0, 3.0
"""How often a lost camera is tried again, and how long disconnecting waits for a try that hangs."""
OLDEST_MS = 200  # frames older than this are too old to show the present
DARK_S = 0.1  # a camera that has shown nothing for this long is reported
BLIND_S = 1.0  # how long an arm continues without sight if the model has no other sense of the scene


class SteadyCamera(Camera):
    """Keeps failures of the camera `inner` from the robot, except in `connect`; a thread reconnects it."""

    def __init__(self, name: str, inner: Camera, say: Callable[[str], None]):
        super().__init__(inner.config)
        self.width, self.height = inner.width, inner.height  # the camera's own, which may differ from its config's
        self._name, self._inner, self._say = name, inner, say
        self._lost, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._closed.set()

    @property
    def is_connected(self) -> bool:
        """Whether it was connected and not disconnected since, even if the inner camera is lost."""
        return not self._closed.is_set()

    @staticmethod
    def find_cameras() -> list[dict]:
        """Return no cameras: this is not a type of device."""
        return []

    def connect(self, warmup: bool = True) -> None:
        """Connect the inner camera; its exceptions propagate."""
        self._inner.connect(warmup)
        self.width, self.height = self._inner.width, self._inner.height
        self._closed.clear()
        self._lost.clear()

    def read_latest(self, max_age_ms: int = 500) -> np.ndarray:
        """Return the newest frame (height, width, 3) uint8; black if there is none that is recent enough."""
        if not self._lost.is_set():
            try:
                return self._inner.read_latest(min(max_age_ms, OLDEST_MS))
            except Exception as error:  # whatever a camera's driver raises, the arm goes on
                self._lose(error)
        return np.zeros((self.height, self.width, 3), np.uint8)

    def read(self, *_, **__) -> np.ndarray:
        """Return the newest frame; see `read_latest`."""
        return self.read_latest()

    async_read = read

    def disconnect(self) -> None:
        """Disconnect the inner camera, whatever its state; a driver that hangs is left to the reconnecting thread."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(LEAVE_S)
            if self._thread.is_alive():
                return
        if self._inner.is_connected:
            self._inner.disconnect()

    def _lose(self, error: Exception) -> None:
        self._lost.set()
        self._say(f"camera {self._name}: {in_one_line(error)}; connecting again")
        self._thread = threading.Thread(target=self._reconnect, daemon=True)
        self._thread.start()

    def _reconnect(self) -> None:
        """Try to connect it again until that succeeds or it is disconnected."""
        while not self._closed.wait(AGAIN_S):
            try:
                if self._inner.is_connected:
                    self._inner.disconnect()
                self._inner.connect()
            except Exception:  # not yet
                continue
            if self._closed.is_set():
                self._inner.disconnect()
                return
            self._lost.clear()
            self._say(f"camera {self._name}: connected again")
            return


@contextlib.contextmanager
def in_a_line() -> Iterator[None]:
    """Silence other reports of what SteadyCamera reports in a line: reader threads' tracebacks, drivers' warnings."""
    before, logger = threading.excepthook, logging.getLogger("lerobot.cameras")

    def hook(arguments) -> None:
        if arguments.thread is None or not arguments.thread.name.endswith("_read_loop"):
            before(arguments)

    threading.excepthook, level = hook, logger.level
    logger.setLevel(logging.CRITICAL)
    vision = sys.modules.get("cv2")  # loaded if a camera uses it
    shown = vision.utils.logging.setLogLevel(0) if vision else None
    try:
        yield
    finally:
        threading.excepthook = before
        logger.setLevel(level)
        if vision:
            vision.utils.logging.setLogLevel(shown)


class CameraBuffer:
    """Keeps what cameras show, given by their keys in the robot's observations; without any it does nothing.

    `sizes`: the height and width in pixels that each camera's frames are resized to. `lags`: the model gets the frames
    of these many control steps ago together. `alone`: the model has no other sense of the scene. `say` gets a line when
    a camera shows nothing, and when it shows something again. `newest`: each camera's newest frame (H, W, 3).
    """

    def __init__(
        self,
        sizes: Mapping[str, tuple[int, int]] = MappingProxyType({}),
        lags: Sequence[int] = (0,),
        alone: bool = False,
        hz: float = 1.0,
        say: Callable[[str], None] = print,
    ):
        self._sizes, self._history, self._alone, self._hz, self._say = sizes, FrameHistory(lags), alone, hz, say
        self._dark = dict.fromkeys(sizes, 0)  # control steps
        self._reported: set[str] = set()
        self._stacks = Observation({}, {})
        self.newest: dict[str, np.ndarray] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The cameras' names."""
        return tuple(self._sizes)

    def forget(self) -> None:
        """Drop the earlier frames: the next ones are an episode's first."""
        self._history.reset(torch.ones(1, dtype=torch.bool))

    def see(self, observation: dict, steps: int = 1) -> None:
        """Take in the frames (H, W, 3) of an observation, `steps` control steps after the last one."""
        self.newest = {name: middle(observation[name], *size) for name, size in self._sizes.items()}
        values, present = {}, {}
        for name, frame in self.newest.items():
            self._dark[name] = 0 if shows(frame) else self._dark[name] + steps
            if self._dark[name] >= DARK_S * self._hz and name not in self._reported:
                self._reported.add(name)
                self._say(f"camera {name}: frames of one colour; it counts as missing while that lasts")
            elif not self._dark[name] and name in self._reported:
                self._reported.discard(name)
                self._say(f"camera {name}: shows something again")
            key = f"{IMAGE_KEY_PREFIX}{name}"
            values[key], present[key] = torch.from_numpy(frame.copy())[None], torch.tensor([not self._dark[name]])
        self._stacks = self._history.see(Observation(values, present), steps)

    def now(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Return each camera's frame stack (F, H, W, 3) uint8, and which cameras show anything now, (C,) bool."""
        there = np.array([not self._dark[name] for name in self.names], bool)
        return [self._stacks.values[f"{IMAGE_KEY_PREFIX}{name}"][0].numpy() for name in self.names], there

    @property
    def blind(self) -> bool:
        """Whether there has been nothing to act on for too long."""
        return self._alone and min(self._dark.values()) > BLIND_S * self._hz
