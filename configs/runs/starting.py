"""What a run begins with if not with nothing (`init=`): the weights of another run, and what it remembers."""

from pathlib import Path

import torch

from configs.reporting import say
from configs.runs.parts import Parts
from policies.guidance.judge import Judge
from policies.settings import QUANTITIES
from policies.storage.checkpoint import REPLAY, AgentSpec, find_checkpoint, load_into, read_spec, read_tensors
from policies.storage.folders import check_folder
from worldmodel.replay import ReplayMismatch
from worldmodel.strict import ConfigError


def begin_with(parts: Parts, init: str) -> None:
    """Take the weights of a checkpoint and, if what it was rewarded for can be told again, its replay.

    Raises ConfigError for a checkpoint of other senses, actions or nets, FolderError for one that cannot be read.
    """
    path = find_checkpoint(Path(init))
    spec, own, learner = read_spec(path), parts.spec(), parts.trainer.learner
    for name in ("senses", "action_size", "model"):
        if getattr(spec, name) != getattr(own, name):
            raise ConfigError(f"init={init}: its {name} is {getattr(spec, name)}, here it is {getattr(own, name)}")
    load_into(learner.model, path)
    with torch.no_grad():
        learner.target_flat.copy_(learner.flat[learner.value_segment])
        learner.average.copy_(learner.flat)
    why = "data= instead" if parts.recordings else _remember(parts, spec, own, path)
    held = f"its {parts.trainer.replay.steps} steps, rewarded anew" if not why else f"nothing of its steps ({why})"
    say(f"beginning with the weights of {path}, and with {held}")


def _remember(parts: Parts, spec: AgentSpec, own: AgentSpec, path: Path) -> str:
    """Take a checkpoint's replay with the rewards of this task; return why not, if not."""
    task, replay = parts.config.task, parts.trainer.replay
    judge = Judge(task.guidance, [*parts.env.metadata[QUANTITIES]])
    free = {"guidance", "reward"} if judge.own == 0 else {"guidance"}
    if spec.quantities != own.quantities or _rest(spec.task, free) != _rest(own.task, free):
        return "of another task"
    if judge.own and spec.task.get("guidance"):
        return "rewarded by a guidance"
    if not (path / REPLAY).exists():
        return "not kept"
    check_folder(path, (REPLAY,))
    try:
        replay.load_state_dict(read_tensors(path / REPLAY))
    except ReplayMismatch as error:
        return str(error)
    if task.guidance:  # a row's reward is for what the next one shows
        told = judge.reward(replay.quantities.roll(-1, 1))
        replay.reward.mul_(judge.own).add_(task.repeat * told)
    return ""


def _rest(task: dict, free: set[str]) -> dict:
    """Return a task without these keys and without empty values, which a file may lack; lists as tuples."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in task.items() if key not in free and v}
