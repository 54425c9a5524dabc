"""One environment of a task, whatever simulates it: the same senses, action range, end of an episode and checks."""

import math
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers.utils import rescale_box

from envs.quantities import Quantities
from envs.senses import Senses
from envs.settings import CHARACTERS, LONGEST, OWN, SOLVED, TaskConfig, check_sentence
from policies.settings import QUANTITIES, SUCCESS
from worldmodel.errors import UserError
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY

UNLIMITED = 1e10  # bounds of this magnitude count as unlimited: dm_control uses it for actuators without limits (lqr)
LARGEST = float(np.finfo(np.float32).max)  # what rewards are stored in holds none larger


class EnvironmentFault(ArithmeticError):
    """An environment raised an exception, which is the cause of this one, or returned a non-finite number.

    `action` (A,) is the action it was given (None at a reset); `observation` and `reward` are what it returned (None
    if it returned nothing).
    """

    def __init__(self, message: str, action=None, observation=None, reward=None):
        """Store the data that caused the fault beside the message."""
        super().__init__(message)
        self.action, self.observation, self.reward = action, observation, reward


class TaskEnv(gymnasium.Wrapper):
    """The environment of `task`, from Gymnasium's `env` for it; `envs.make.make` says what it observes and does.

    The attribute `instruction`, if not None, replaces the task's own from the next reset on. `metadata` holds
    `episode_limit`, the control steps after which an episode is truncated (None: never), `render_fps`, in control steps
    per second, `unperceived`, the cameras in the environment's observation that are not among the senses, and
    `quantities`, the units of the named quantities (`envs.quantities`), whose values are in every `info`. `running`:
    which environment of this process is at work (task and control step), and since when (`time.monotonic`); None if
    none is. `info["success"]` counts as `is_success`. Raises ValueError, one line, for unsupported spaces or a sense
    that is not there or cannot be rendered, and EnvironmentFault for what the environment raises, or a number that is
    not finite.
    """

    instruction: str | None = None
    running: ClassVar[tuple[str, float] | None] = None

    def __init__(self, env: gymnasium.Env, task: TaskConfig, senses: Senses):
        super().__init__(env)
        if not senses.state and not senses.cameras:
            raise UserError("senses=[language]: words alone show nothing of what happens; add state or images.<camera>")
        self._task, self._senses = task, senses
        self._step = 0
        limits = [steps for steps in (_own_limit(env, task.repeat), task.max_control_steps) if steps]
        rate = 1 / (_seconds(env) * task.repeat)
        self.metadata = {**env.metadata, "episode_limit": min(limits, default=None), "render_fps": rate}
        own = action_box(task, env.action_space)
        self.action_space = spaces.Box(-1.0, 1.0, own.shape, np.float32)
        ends = -np.ones_like(own.low), np.ones_like(own.high)
        same = np.array_equal((own.low, own.high), ends)
        self._to_own = np.asarray if same else rescale_box(own, *ends)[2]
        self._numbers, images = _numbers(task, env.observation_space), image_paths(env.observation_space)
        turning = [(name,) for name in task.cos_sin]
        self._labels = [label for keys, box in self._numbers.items() for label in _labels(task, keys, box)]
        angular = [np.full(spaces.flatdim(box), keys[:1] in turning) for keys, box in self._numbers.items()]
        self._angular = np.concatenate([np.zeros(0, bool), *angular])
        angles = [label for label, angular in zip(self._labels, self._angular, strict=True) if angular]
        self._labels = [f"cos/{label}" if label in angles else label for label in self._labels]
        self._labels += [f"sin/{label}" for label in angles]
        if senses.state and not self._labels:
            shown = ",".join(f"images.{name}" for name in images)
            raise UserError(f"senses=state: {task.label} observes pictures alone; senses=[{shown}]")
        parts: dict[str, spaces.Space] = {}
        if senses.state:
            parts[STATE_KEY] = spaces.Box(-np.inf, np.inf, (len(self._labels),), np.float32)
        self._cameras, unperceived = None, [*images]
        if senses.cameras:
            from envs.cameras import Cameras

            self._cameras = Cameras(env, task, senses)
            parts |= self._cameras.spaces
            unperceived = self._cameras.unperceived
        self.metadata |= {"unperceived": unperceived, "labels": tuple(self._labels)}
        self.named = Quantities(env, self._labels, self.state)
        self.metadata[QUANTITIES] = self.named.units
        self._judge = None
        if task.guidance:
            from policies.guidance.judge import Judge

            self._judge = Judge(task.guidance, [*self.named.units])
        if senses.language:
            self._own_instruction = self._given = task.words
            parts[LANGUAGE_KEY] = spaces.Text(LONGEST, charset=CHARACTERS)
        self.observation_space = spaces.Dict(parts)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Begin an episode. Raises ValueError, one line, for an invalid instruction."""
        self._step = 0
        if self._senses.language:
            given = self._own_instruction if self.instruction is None else self.instruction
            self._given = check_sentence(given, LANGUAGE_KEY)
        with faults(self._where()):
            raw, info = self.env.reset(seed=seed, options=options)
            return self._observe(raw, None, 0.0), info | {QUANTITIES: self.named.read(raw)}

    def step(self, action: np.ndarray):
        """Advance one control step, repeating the action and summing the rewards. Raises ValueError if not finite."""
        self._step += 1
        if not np.isfinite(action).all():
            raise ValueError(f"{self._where()}: the action is not finite: {action}")
        own, total, held = self._to_own(action), 0.0, 0
        with faults(self._where(), action):
            for _ in range(self._task.repeat):
                held += 1
                raw, reward, terminated, truncated, info = self.env.step(own)
                total += self._reward(reward, info)
                if terminated or truncated:
                    break
            observation = self._observe(raw, action, total)
            quantities = self.named.read(raw)
            if self._judge is not None:
                total = self._judge.own * total + held * self._judge.now(quantities)
            if SUCCESS not in info and "success" in info:
                info = {**info, SUCCESS: bool(info["success"])}
        info = info | {QUANTITIES: quantities}
        return observation, total, terminated, truncated or self._step == self._task.max_control_steps, info

    def _reward(self, own: Any, info: dict[str, Any]) -> float:
        """Return the reward of an environment step, whose environment's is `own`."""
        if self._task.reward == OWN:
            return float(own)
        if self._task.reward == SOLVED and not {SUCCESS, "success"} & info.keys():
            raise UserError(f"task.reward={SOLVED}: {self._task.label} does not say when it is done")
        return float(self._task.reward == SOLVED and bool(info.get(SUCCESS, info.get("success"))))

    def render(self):
        """Return the environment's own picture."""
        with faults(self._where()):
            return super().render()

    def close(self) -> None:
        """Close the environment and free its OpenGL resources."""
        if self._cameras is not None:
            self._cameras.close()
        with faults(self._where()):
            super().close()

    def state(self, raw: Any) -> np.ndarray:
        """Return the state (S,) float32 in an observation of Gymnasium's environment; overflow becomes infinite."""
        if not self._numbers:
            return np.zeros(0, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            state = np.concatenate([np.ravel(at(raw, keys)) for keys in self._numbers])
            if self._angular.any():
                state = np.concatenate([np.where(self._angular, np.cos(state), state), np.sin(state[self._angular])])
            return state.astype(np.float32)

    def _observe(self, raw: Any, action: np.ndarray | None, reward: float) -> dict[str, Any]:
        """Return what the agent observes of `raw`, checked."""
        state = self.state(raw)
        if len(state) != len(self._labels):
            raise EnvironmentFault(f"{self._where()}: it observes {len(state)} numbers, not {len(self._labels)}")
        finite = np.isfinite(state)
        if not finite.all() or not abs(reward) <= LARGEST:
            at = int(np.argmin(finite))
            what = f"observation.state[{at}] ({self._labels[at]}) is {state[at]}"
            what = f"the reward is {reward}" if finite.all() else what
            acted = None if action is None else np.array(action)
            raise EnvironmentFault(f"{self._where()}: {what}", acted, {STATE_KEY: state}, reward)
        observation: dict[str, Any] = {STATE_KEY: state} if self._senses.state else {}
        if self._cameras is not None:
            observation |= self._cameras.frames(raw)
        return observation | ({LANGUAGE_KEY: self._given} if self._senses.language else {})

    def _where(self) -> str:
        return f"{self._task.label}, control step {self._step}"


@contextmanager
def faults(where: str, action: np.ndarray | None = None) -> Iterator[None]:
    """Turn what an environment's own code raises into a fault, and say meanwhile that it runs."""
    TaskEnv.running = where, time.monotonic()
    try:
        yield
    except (EnvironmentFault, UserError):
        raise
    except Exception as error:
        place, what = traceback.extract_tb(error.__traceback__)[-1], " ".join(str(error).split())
        line = f"{where}: {type(error).__name__}: {what} ({Path(place.filename).name}, line {place.lineno})"
        raise EnvironmentFault(line, None if action is None else np.array(action)) from error
    finally:
        TaskEnv.running = None


def _own_limit(env: gymnasium.Env, repeat: int) -> int | None:
    """Return the environment's own time limit in control steps, or None if there is none."""
    for found in (env.spec.max_episode_steps if env.spec else None, getattr(env, "_max_episode_steps", None)):
        if found is not None:
            return math.ceil(found / repeat)
    steps = getattr(env.unwrapped, "_step_limit", math.inf)
    return None if math.isinf(steps) else math.ceil(math.ceil(steps) / repeat)


def _seconds(env: gymnasium.Env) -> float:
    """Return the duration of an environment step in seconds: its `dt` if it has one, else from its `render_fps`."""
    seconds = getattr(env.unwrapped, "dt", None)
    return float(seconds) if seconds else 1 / (env.metadata.get("render_fps") or 30)


def by_key(env: gymnasium.Env) -> spaces.Dict:
    """Return the observation space of an environment that `envs.make` created, a Dict."""
    assert isinstance(env.observation_space, spaces.Dict)
    return env.observation_space


def at(whole: Any, keys: tuple[str, ...]) -> Any:
    """Return the part of an observation, or of its space, to which these nested keys lead."""
    for key in keys:
        whole = whole[key]
    return whole


def _leaves(space: spaces.Space, keys: tuple[str, ...] = ()) -> dict[tuple[str, ...], spaces.Space]:
    """Return what an observation space is made of, by the nested keys that lead to it."""
    if not isinstance(space, spaces.Dict):
        return {keys: space}
    return {place: leaf for key, part in space.items() for place, leaf in _leaves(part, (*keys, key)).items()}


def _numbers(task: TaskConfig, space: spaces.Space) -> dict[tuple[str, ...], spaces.Space]:
    """Return the parts of the state, without images and `task.exclude`. Raises ValueError for one that is not there."""
    parts = {keys: part for keys, part in _leaves(space).items() if not _is_image(part)}
    for key, names in (("exclude", task.exclude), ("cos_sin", task.cos_sin)):
        there = dict.fromkeys(keys[0] for keys in parts if keys)
        if unknown := [name for name in names if name not in there]:
            choices = f"one of {', '.join(there)}" if there else "its observation has no named components"
            raise UserError(f"task.{key}=[{','.join(names)}]: {unknown[0]}: {choices}")
        parts = {keys: part for keys, part in parts.items() if not keys or keys[0] not in task.exclude}
    return parts


def _labels(task: TaskConfig, keys: tuple[str, ...], space: spaces.Space) -> list[str]:
    """Name each number of a part of the state. Raises ValueError for an unsupported space."""
    name = "/".join(keys)
    if not isinstance(space, spaces.Box):
        where = f" {name}" if name else ""
        raise UserError(
            f"{task.label}: its observation{where} is {space}; supported: a Box of numbers, or a Dict of them"
        )
    return [name + "".join(f"[{i}]" for i in index) for index in np.ndindex(space.shape)]


def action_box(task: TaskConfig, space: spaces.Space) -> spaces.Box:
    """Return the action space, a Box (A,); where the suite sets no limits (lqr), [-1, 1]. Raises ValueError."""
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        raise UserError(
            f"{task.label}: its actions are {space}, but plans are curves through continuous control points; a wrapper "
            "of yours that offers a Box of as many scores and takes the highest would do (task.wrappers=)"
        )
    supported = "supported: a Box of one dimension with finite bounds (continuous control)"
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f" or len(space.shape) != 1:
        raise UserError(f"{task.label}: its actions are {space}; {supported}")
    unlimited = not (np.abs([space.low, space.high]) < UNLIMITED).all()
    if unlimited and task.name != "gym":
        return spaces.Box(-1.0, 1.0, space.shape, space.dtype)
    if unlimited or np.any(space.low >= space.high):
        raise UserError(f"{task.label}: its actions are {space}; {supported}")
    return space


def _is_image(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3


def image_paths(space: spaces.Space) -> dict[str, tuple[str, ...]]:
    """Return the keys that lead to each image, (H, W, channels) uint8, in an observation space, by its name.

    A name is the image's key, or its nested keys joined by `-` without LeRobot's group `pixels`; `image` if the image
    is the whole observation.
    """
    images = [keys for keys, part in _leaves(space).items() if _is_image(part)]
    return {"-".join(keys).removeprefix("pixels-") or "image": keys for keys in images}
