"""Build environments from task settings, with uniform observations, action range and end-of-episode semantics.

Resuming a run relies on this guarantee: `reset(seed=s)` followed by a given sequence of actions yields
bit-identical observations and rewards, whatever the environment or the process did before.
"""

import difflib
import functools
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import gymnasium
from gymnasium.wrappers import TimeLimit

from envs import suite
from envs.senses import Senses
from envs.settings import FaultConfig, TaskConfig
from envs.task_env import TaskEnv, faults
from envs.vector import Processes
from envs.wrappers import Faulty, Masked, Multi, Reporting
from sim.so101.tasks import TASKS
from sim.variation import Variation
from worldmodel import registry
from worldmodel.errors import UserError, in_one_line

STATE_ALONE = Senses()
ENDLESS = 1000  # control steps after which an episode that never ends is cut off, for callers that need a limit


def make(
    task: TaskConfig,
    render: bool = False,
    variation: Variation | None = None,
    senses: Senses = STATE_ALONE,
    drop: Mapping[str, int] | None = None,
    plugins: Sequence[str] = (),
    report_faults: bool = False,
    fault: FaultConfig | None = None,
) -> gymnasium.Env:
    """Create the environment of a task; with `render=True`, one that `envs.cameras.frame` can draw.

    `variation` says how the simulated SO-101 differs from its model from one episode to the next; only the arm's
    tasks support it. `drop`: the control step from which a sense is missing in each episode (`envs.wrappers`).
    `plugins`: modules to import first, which another process may lack (`worldmodel.registry`). `report_faults`: do not
    raise a fault, but end the episode (`Reporting`). `fault`: what breaks in each episode.

    Observations: a Dict of the chosen `senses`. `observation.state`, Box (S,) float32: the environment's own keys in
    alphabetical order, flattened. `observation.images.<camera>`, Box (H, W, 3) uint8 (`envs.cameras`), with
    `mask.images.<camera>`. `observation.language`: the task's instruction, a string.
    Actions: Box [-1, 1] (A,) float32, rescaled to the environment's range. An action is held for
    `task.action_repeat` steps or until the episode ends, and rewards are summed. `terminated` means that no reward
    can be earned afterwards, `truncated` that only the time limit was reached. With several tasks, each episode is one
    of them (`envs.wrappers`).

    Raises ValueError, one line, for what the task does not have or cannot do, EnvironmentFault if it cannot be made.
    """
    registry.load(plugins)
    if report_faults:
        return Reporting(make(task, render, variation, senses, drop, fault=fault))
    if task.name == "multi":
        return Multi({part.name: make(part, render, variation, senses, drop, fault=fault) for part in task.parts})
    with faults(f"{task.label}, being made"):
        own = _build(task, render or bool(senses.cameras), variation)
        for name in task.wrappers:
            own = registry.find("wrapper", name)(own)
    try:
        env: gymnasium.Env = TaskEnv(own, task, senses)
        if fault is not None and fault.kind:
            env = Faulty(env, fault)
        if not senses.cameras and not drop:
            return env
        return Masked(env, drop)
    except ValueError:
        own.close()
        raise


def make_vector(task: TaskConfig, count: int, processes: bool = True, **how: Any) -> gymnasium.vector.VectorEnv:
    """Create `count` environments of a task that step together; `how`: further arguments of `make`.

    A single environment runs in this process; several run in one process each, unless `processes` is False.

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

    Raises ValueError as `make`, or if `count` is below 1; `reset` and `step` raise EnvironmentFault.
    """
    if count < 1:
        raise UserError(f"envs={count}: at least 1")
    one = functools.partial(make, task, plugins=tuple(registry.loaded), **how)
    if count > 1 and processes:
        return Processes(one, count, task.label)
    disabled = gymnasium.vector.AutoresetMode.DISABLED
    return gymnasium.vector.SyncVectorEnv([one] * count, autoreset_mode=disabled)


def _build(task: TaskConfig, render: bool, variation: Variation | None) -> gymnasium.Env:
    """Create the task's unmodified environment, with its own time limit."""
    if task.is_arm:
        from envs import arm

        return TimeLimit(arm.build(task, variation), round(TASKS[task.name].seconds * task.arm.control_hz))
    if variation is not None and not variation.off:
        raise UserError(f"randomise=: only for the SO-101's tasks, not {task.label}; randomise=off")
    return _gym(task, render) if task.name == "gym" else suite.build(task.name)


def _gym(task: TaskConfig, render: bool) -> gymnasium.Env:
    """Create an installed Gymnasium environment. Raises ValueError if it is unknown or lacks a dependency."""
    try:
        with suite.quiet():
            env = gymnasium.make(task.id, disable_env_checker=True, **task.kwargs)
            if render and "rgb_array" in (env.metadata.get("render_modes") or ()):  # only known after construction
                env.close()
                env = gymnasium.make(task.id, disable_env_checker=True, **{"render_mode": "rgb_array", **task.kwargs})
            return env
    except (gymnasium.error.UnregisteredEnv, ModuleNotFoundError) as error:
        module = task.id.rpartition(":")[0]
        if module and find_spec(module.partition(".")[0]) is None:
            raise UserError(f"task.id={task.id}: no module {module}; its folder belongs on PYTHONPATH") from error
        own = {name for name, spec in gymnasium.registry.items() if not str(spec.entry_point).startswith("gymnasium")}
        known = [f"{module}:{name}" if module and name in own else name for name in gymnasium.registry]
        close = difflib.get_close_matches(task.id, known, n=3) or ["Pendulum-v1", "HalfCheetah-v5"]
        why = f"no such environment is installed ({in_one_line(error)}); close to it: {', '.join(close)}"
        raise UserError(f"task.id={task.id}: {why}") from error
    except (gymnasium.error.Error, ImportError, ValueError) as error:
        raise UserError(f"task.id={task.id}: {in_one_line(error)}") from error
    except (TypeError, AssertionError) as error:
        if not task.kwargs:
            raise
        given = ", ".join(f"{name}={value}" for name, value in task.kwargs.items())
        raise UserError(f"task.kwargs: {task.id} does not take {given} ({in_one_line(error)})") from error
