"""Build environments from task settings, with uniform observations, action range and end-of-episode semantics.

Resuming a run relies on this guarantee: `reset(seed=s)` followed by a given sequence of actions yields
bit-identical observations and rewards, whatever the environment or the process did before.
"""

import difflib
import functools
import math
from collections.abc import Callable

import gymnasium
import numpy as np
from gymnasium import spaces, wrappers

from envs import arm, suite
from envs.faults import FiniteGuard
from envs.language import Spoken
from envs.multi import Multi
from envs.senses import LANGUAGE_NAME, Senses
from envs.settings import TaskConfig
from envs.spaces import Pictures, action_box, component_names, pictures_in
from envs.vector import Processes
from sim.variation import Variation
from worldmodel.errors import UserError
from worldmodel.senses import STATE_KEY

STATE_ALONE = Senses()
ENDLESS = 1000
"""Control steps after which an episode that never ends is cut off, for callers that need a limit."""


def make(
    task: TaskConfig, render: bool = False, variation: Variation | None = None, senses: Senses = STATE_ALONE
) -> gymnasium.Env:
    """Create the environment of a task; with `render=True`, one that `envs.cameras.frame` can draw.

    `variation` says how the simulated SO-101 differs from its model from one episode to the next; only the arm's
    tasks support it.

    Observations: a Dict of the chosen `senses`. `observation.state`, Box (S,) float32: the environment's own keys in
    alphabetical order, flattened. `observation.images.<camera>`, Box (H, W, 3) uint8 (`envs.cameras`).
    `observation.language`: the task's sentence, a string (`envs.language`).
    Actions: Box [-1, 1] (A,) float32, rescaled to the environment's range. An action is held for
    `task.action_repeat` steps or until the episode ends, and rewards are summed. `terminated` means that no reward
    can be earned afterwards, `truncated` that only the time limit was reached. `metadata` holds `episode_limit` (see
    that function) and `render_fps`, in control steps per second. With several tasks, each episode is one of them
    (`envs.multi`).

    Raises:
        ValueError: for an unknown Gymnasium id, unsupported spaces, several tasks whose spaces differ, a variation of
            a task other than the arm's, or a sense that the task lacks or that cannot be rendered; one line.
    """
    if task.name == "multi":
        return Multi({part.name: make(part, render, variation, senses) for part in task.parts})
    if senses.names == (LANGUAGE_NAME,):
        raise UserError("senses=[language]: words alone show nothing of what happens; add state or images.<camera>")
    sentence = task.words if senses.language else None
    env = _build(task, render or bool(senses.cameras), variation)
    limit, seconds = _limit(env), _seconds(env)
    pictures = Pictures(env, task) if [*pictures_in(env.observation_space)] else None
    env = pictures or env
    labels = component_names(task, env.observation_space)
    if pictures and senses.state and not labels:
        images = ",".join(f"images.{name}" for name in pictures.shapes)
        raise UserError(f"senses=state: {task.label} observes pictures alone; senses=[{images}]")
    env.action_space = own = action_box(task, env.action_space)

    if task.repeat > 1:
        env = wrappers.RepeatAction(env, task.repeat)
    if np.any(own.low != -1) or np.any(own.high != 1):
        env = wrappers.RescaleAction(env, -np.ones_like(own.low), np.ones_like(own.high))
    env.action_space = spaces.Box(-1.0, 1.0, own.shape, np.float32)
    env = wrappers.FlattenObservation(env)
    space = spaces.Dict({STATE_KEY: spaces.Box(-np.inf, np.inf, (len(labels),), np.float32)})
    env = wrappers.TransformObservation(env, _state, space)
    steps = None if limit is None else math.ceil(limit / task.repeat)
    if task.max_control_steps:
        env = wrappers.TimeLimit(env, task.max_control_steps)
        steps = min(task.max_control_steps, steps or task.max_control_steps)
    env = FiniteGuard(env, task.label, labels, _divergence(task))
    env.metadata = {
        **env.metadata,
        "episode_limit": steps,
        "render_fps": 1 / (seconds * task.repeat),
    }
    env = _seeing(env, task, senses, pictures) if senses.cameras else env
    return env if sentence is None else Spoken(env, sentence)


def make_vector(
    task: TaskConfig,
    count: int,
    processes: bool = True,
    variation: Variation | None = None,
    senses: Senses = STATE_ALONE,
    wrap: Callable[[gymnasium.Env], gymnasium.Env] | None = None,
) -> gymnasium.vector.VectorEnv:
    """Create `count` environments of a task that step together.

    A single environment runs in this process; several run in one process each, unless `processes` is False. `wrap` is
    applied to each environment (e.g. `envs.wrappers.watched`) and must be picklable.

    Nothing resets automatically. Start with `reset(seed=[s0, s1, ...])`. After a `step`, reset the environments that
    ended, and only those, before the next step:

        ended = terminated | truncated  # (count,) bool
        if ended.any():
            observations, _ = vector.reset(seed=seeds, options={"reset_mask": ended})

    `seeds` is a list of `count` Python ints from 0 to 2**32 - 1 (those of environments that continue are
    ignored; None lets an environment continue with its own random generator). The mask is a numpy bool array with at
    least one True; Gymnasium *removes* it from the dict, so pass a new dict each time. Observations are returned for
    all environments: the first of the new episode where reset, the latest elsewhere. Close the vector when done; if
    this process is killed, the worker processes exit by themselves.

    Raises:
        ValueError: if `count` is below 1, or for anything `make` raises it for.
        EnvironmentFault: from `reset` or `step`, whichever process the fault occurred in.
    """
    if count < 1:
        raise UserError(f"envs={count}: at least 1")
    one = functools.partial(_wrapped, wrap, task, variation=variation, senses=senses)
    if count > 1 and processes:
        return Processes(one, count)
    disabled = gymnasium.vector.AutoresetMode.DISABLED
    return gymnasium.vector.SyncVectorEnv([one] * count, autoreset_mode=disabled)


def _wrapped(wrap: Callable[[gymnasium.Env], gymnasium.Env] | None, task: TaskConfig, **what) -> gymnasium.Env:
    env = make(task, **what)
    return env if wrap is None else wrap(env)


def _seeing(env: gymnasium.Env, task: TaskConfig, senses: Senses, pictures: Pictures | None) -> gymnasium.Env:
    from envs.cameras import SenseWrapper

    try:
        return SenseWrapper(env, task, senses, pictures)
    except ValueError:
        env.close()
        raise


def episode_limit(env: gymnasium.Env | gymnasium.vector.VectorEnv) -> int | None:
    """Return the number of control steps after which an episode is truncated, or None if it never is."""
    return env.metadata["episode_limit"]


def _build(task: TaskConfig, render: bool, variation: Variation | None) -> gymnasium.Env:
    """Create the task's unmodified environment, with its own time limit."""
    if task.is_arm:
        return wrappers.TimeLimit(arm.build(task, variation), arm.limit(task))
    if variation is not None and not variation.off:
        raise UserError(f"randomise=: only for the SO-101's tasks, not {task.label}; randomise=off")
    return _gym(task, render) if task.name == "gym" else suite.build(task.name)


def _gym(task: TaskConfig, render: bool) -> gymnasium.Env:
    """Create an installed Gymnasium environment. Raises ValueError if it is unknown or lacks a dependency."""
    try:
        with suite.quiet():
            env = gymnasium.make(task.id, disable_env_checker=True)
            if render and "rgb_array" in (env.metadata.get("render_modes") or ()):  # only known after construction
                env.close()
                env = gymnasium.make(task.id, disable_env_checker=True, render_mode="rgb_array")
            return env
    except (gymnasium.error.UnregisteredEnv, ModuleNotFoundError) as error:
        close = difflib.get_close_matches(task.id, gymnasium.registry, n=3) or [
            "Pendulum-v1",
            "HalfCheetah-v5",
        ]
        raise UserError(
            f"task.id={task.id}: no such environment is installed ({_line(error)}); close to it: {', '.join(close)}"
        ) from error
    except (gymnasium.error.Error, ImportError, ValueError) as error:
        raise UserError(f"task.id={task.id}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _state(observation: np.ndarray) -> dict[str, np.ndarray]:
    with np.errstate(over="ignore"):  # overflow becomes inf, which FiniteGuard then reports
        return {STATE_KEY: observation.astype(np.float32)}


def _limit(env: gymnasium.Env) -> int | None:
    """Return the time limit in environment steps, before any action repeat, or None if there is none."""
    for found in (env.spec.max_episode_steps if env.spec else None, getattr(env, "_max_episode_steps", None)):
        if found is not None:
            return found
    steps = getattr(env.unwrapped, "_step_limit", math.inf)
    return None if math.isinf(steps) else math.ceil(steps)


def _seconds(env: gymnasium.Env) -> float:
    """Return the duration of an environment step in seconds: its `dt` if it has one, else from its `render_fps`."""
    seconds = getattr(env.unwrapped, "dt", None)
    return float(seconds) if seconds else 1 / (env.metadata.get("render_fps") or 30)


def _divergence(task: TaskConfig) -> tuple[type[Exception], ...]:
    """Return the exception types that the task's environment raises when its physics diverges."""
    if task.is_arm:
        return (arm.Diverged,)
    if task.name == "gym":
        return ()
    from dm_control.rl.control import PhysicsError

    return (PhysicsError,)
