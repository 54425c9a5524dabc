"""Semagram in one flat module.

A run, and what came of it:

    import semagram

    semagram.train(task="walker-walk", steps=100_000, planner={"samples": 128})
    agent = semagram.load("runs/last")
    env = semagram.make_env(agent.task)
    observation, _ = env.reset(seed=0)
    action = agent.act(observation)
    semagram.film(agent, "walk.mp4")
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[2]
for package in ("worldmodel", "policies", "envs", "robot", "sim", "configs"):
    found = find_spec(package)
    if found is None or not found.origin or Path(found.origin).resolve().parents[1] != HOME:
        where = Path(found.origin).parent if found and found.origin else f"a folder {package} without __init__.py"
        raise ImportError(f"{where} hides Semagram's own package {package}; name it otherwise", name=package)

import gymnasium
import numpy as np
import torch

from configs.arguments import quoted
from configs.runs import film as films
from configs.runs.loading import Loaded, load_agent
from configs.runs.tracking import Callback
from envs.make import make, make_vector
from envs.senses import Senses
from envs.settings import NAMES, TaskConfig
from policies.guidance.chosen import Chosen
from policies.noise import Noise
from policies.settings import GuidanceKeys
from policies.storage.folders import stamped
from policies.training.episodes import observe
from policies.training.rollouts import evaluated
from worldmodel.errors import UserError
from worldmodel.losses import LossInputs
from worldmodel.mppi import Plan, fit, mppi, rollout
from worldmodel.observation import Observation
from worldmodel.registry import load as register_all
from worldmodel.registry import register
from worldmodel.replay import Replay, sample_starts, sample_windows, window_at
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY, is_image
from worldmodel.strict import build

__all__ = ["Agent", "LossInputs", "Noise", "Plan", "Replay", "evaluate", "film", "fit", "guide", "load", "make_env"]
__all__ += ["mppi", "register", "rollout", "sample_starts", "sample_windows", "train", "window_at"]


def train(
    keys: Mapping[str, Any] | None = None, *, folder: str | Path | None = None, callback: Callback | None = None, **more
) -> dict:
    """Train as `semagram-train` does; return the summary, whose `run` is the run folder.

    The keys are those of the command, by their dotted names in `keys`, or as arguments with groups as dicts. `folder`:
    the new run's; by default runs/<task>/<time>-seed<seed>, unless `resume` names a run. `callback` is called with each
    row of metrics.csv; if it returns True, training ends there. Raises ValueError for a wrong key or value, OSError,
    SystemExit after a signal.
    """
    from configs.train import train as begin

    if not isinstance(keys, Mapping | None):
        raise UserError(f"train({keys!r}): a dict of keys; task={keys!r} is a task")
    return begin(_words({**(keys or {}), **more}), folder, callback)


def evaluate(checkpoint: str | Path, folder: str | Path | None = None, **keys) -> dict:
    """Evaluate as `semagram-eval` does; return the summary. Raises ValueError, OSError.

    `folder`: of the results, where it replaces earlier ones; by default runs/evaluations/<time>-<process>.
    """
    from configs.runs.evaluation import Evaluation
    from configs.schema import EvaluateConfig

    config = _config("evaluate", EvaluateConfig, keys | {"checkpoint": str(checkpoint)})
    return Evaluation.begin(config).run(Path(folder or Path("runs/evaluations", stamped(os.getpid()))))


def guide(checkpoint: str | Path, folder: str | Path, **keys) -> dict:
    """Write a guidance as `semagram-guide` does (`want="speed > 1"`); return its line. Raises ValueError, OSError."""
    from configs.runs.guiding import guide as compiled
    from configs.schema import GuideConfig

    keys |= {"checkpoint": str(checkpoint), "out": str(folder)}
    return compiled(_config("guide", GuideConfig, keys), Path(folder))


def _config[T](command: str, cls: type[T], keys: Mapping[str, Any]) -> T:
    """Return the config of a command with these keys, its plugins imported."""
    from configs.train import composed_or_refused

    found = composed_or_refused(command, _words(keys))
    register_all(found["plugins"])
    return build(cls, found)


class Agent:
    """A trained agent for one environment or for B of them. `task`: what it was trained on. `loaded`: all about it."""

    def __init__(self, loaded: Loaded):
        self.loaded, self.task, self.model = loaded, loaded.task, loaded.agent.model

    def act(self, observation):
        """Return the next action (A,) in [-1, 1], or (B, A) for B observations; a tensor for tensors, else an array.

        `observation`: the state alone, or a dict of senses by LeRobot's keys, as `make_env` returns it. Call it at
        every control step, and `reset` before each episode. Raises ValueError, one line.
        """
        seen, single = self._observed(observation)
        action = self.loaded.agent.act(seen)
        values = [*observation.values()] if isinstance(observation, Mapping) else [observation]
        action = action[0] if single else action
        return action if any(isinstance(value, torch.Tensor) for value in values) else action.numpy()

    def plan(self, observation) -> Plan:
        """Return what it would do from here on, and expect; `observation` as for `act`, whose state does not change."""
        return self.loaded.agent.preview(self._observed(observation)[0])

    def guide(self, guidance: str | Path | Sequence[str] = (), weight: float | None = None) -> None:
        """Follow guidances from the next decision on: folders of `semagram-guide`, or `<folder>*0.5` with weights.

        `weight`: of all of them beside what it learned, from 0 (as it was) to 1; None: as they say. Without any it is
        as it was. Raises ValueError, one line, for a folder that is none, or is of another checkpoint.
        """
        keys = GuidanceKeys(str(guidance) if isinstance(guidance, str | Path) else (*guidance,), weight)
        if keys.given:
            Chosen.load(keys, self.loaded.path, self.model).guide(self.loaded.agent)
        else:
            self.loaded.agent.guide(())

    def reset(self) -> None:
        """Forget the current plan and frames: a new episode begins."""
        self.loaded.agent.forget()

    def _observed(self, observation) -> tuple[Observation, bool]:
        """Return the observation of B environments, and whether it was a single one."""
        senses = self.model.senses
        values = dict(observation) if isinstance(observation, Mapping) else {STATE_KEY: observation}
        if not senses.keys() & values.keys():
            raise UserError(f"the senses are {', '.join(senses)}; there is {', '.join(map(str, values)) or 'nothing'}")
        dims = {key: 0 if key == LANGUAGE_KEY else 3 if is_image(key) else 1 for key in senses}
        arrays: dict[str, Any] = {
            key: value if isinstance(value, str) else np.asarray(value) for key, value in values.items()
        }
        if wrong := [key for key, value in arrays.items() if np.iscomplexobj(value)]:
            raise UserError(f"{wrong[0]}: complex numbers; real ones only")
        single = all(np.ndim(arrays[key]) == dims[key] for key in senses if key in arrays)
        if single:
            arrays = {key: [value] if isinstance(value, str) else value[None] for key, value in arrays.items()}
        return observe(arrays, senses), single


def load(
    path: str | Path = "runs/last",
    planned: bool = True,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 1,
    plugins: Sequence[str] = (),
) -> Agent:
    """Load the agent of a checkpoint or of a run's newest; it does not explore. Raises ValueError, one line."""
    _check_seed("load", seed)
    try:
        register_all([*plugins])
        return Agent(load_agent(path, seed, device, threads, planned))
    except UserError as error:
        raise error.with_traceback(None) from None  # its line says all


def make_env(
    task: str | TaskConfig, senses: tuple[str, ...] = ("state",), render: bool = False, **keys
) -> gymnasium.Env:
    """Make an environment of a task by its name or Gymnasium id, with keys of `task.`. Raises ValueError, one line."""
    if isinstance(task, str):
        named = {"name": task} if task in NAMES else {"name": "gym", "id": task}
        task = build(TaskConfig, named | keys, "task.")
    elif keys:
        raise UserError(f"make_env: {next(iter(keys))}= goes with a task's name, not with a TaskConfig")
    return make(task, render, senses=Senses(senses))


def film(agent: Agent, path: str | Path = "rollout.mp4", seed: int = 0) -> bool:
    """Write a video (.mp4, or a short .gif) of an episode; return if it could be rendered. Raises UserError.

    Beside it are plan.svg, plan.png and plan.json, the first plan of an agent that plans.
    """
    _check_seed("film", seed)
    if Path(path).suffix not in (".mp4", films.GIF) or not Path(path).parent.is_dir():
        raise UserError(f"film: {path}: a file ending in .mp4 or {films.GIF}, in a folder that is there")
    agent.reset()
    acting = agent.loaded.agent
    with closing(make_vector(agent.task, 1, render=True, senses=Senses.of(agent.model.senses))) as env:
        return films.film(Path(path), evaluated(env, acting, seed, stream=2), agent.task, acting)


def _check_seed(where: str, seed: object) -> None:
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise UserError(f"{where}: seed={seed}: a whole number from 0 to {2**32 - 1}")


def _dotted(keys: Mapping[str, Any], place: str = ""):
    """Yield every key by its dotted name, with its value."""
    for key, value in keys.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def _words(keys: Mapping[str, Any]) -> list[str]:
    """Return keys as a command's arguments."""
    return [f"{key}={_written(value)}" for key, value in _dotted(keys)]


def _written(value: object) -> str:
    """Return a value as Hydra reads it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    return quoted(value).replace("${", "\\${") if isinstance(value, str | Path) else str(value)
