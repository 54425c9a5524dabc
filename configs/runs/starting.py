"""What a run begins with if not with nothing (`init=`): the weights of another run, and what it remembers."""

import math
from pathlib import Path

import torch

from configs.reporting import say
from configs.runs.parts import Parts
from policies.guidance.judge import Judge
from policies.guidance.storage import load_guidance, sum_of_model
from policies.guidance.storage import read_spec as read_guidance
from policies.settings import QUANTITIES
from policies.storage.checkpoint import REPLAY, AgentSpec, find_checkpoint, load_into, read_spec, read_tensors
from policies.storage.folders import check_folder
from worldmodel.layers import BOUND
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
    fitted = _take_fitted(parts, path)
    with torch.no_grad():
        learner.target_flat.copy_(learner.flat[learner.value_segment])
        learner.average.copy_(learner.flat)
    why = "data= instead" if parts.recordings else _remember(parts, spec, own, path)
    held = f"its {parts.trainer.replay.steps} steps, rewarded anew" if not why else f"nothing of its steps ({why})"
    nets = f"the weights of {path}{', the value and policy fitted to the guidance' if fitted else ''}"
    say(f"beginning with {nets}, and with {held}")


def _take_fitted(parts: Parts, path: Path) -> bool:
    """Take the value and policy of the run's only guidance, if they were fitted for this checkpoint; return whether.

    Else practice begins with a value of another reward, which takes thousands of updates to forget.
    """
    config, model = parts.config, parts.trainer.learner.model
    if len(config.guidance.each) != 1 or config.guidance.weight not in (None, 1.0):
        return False
    ((folder, _),) = config.guidance.each
    if read_guidance(folder).checkpoint != sum_of_model(path):
        return False
    fitted = load_guidance(folder, path, model)[0].fitted
    if fitted is None:
        return False
    model.value.load_state_dict(fitted.value.state_dict())
    model.actor.load_state_dict(fitted.actor.state_dict())
    # A control step's reward is now summed over its environment steps, so values stand further up the logarithmic bins.
    shift = round(math.log(config.task.repeat) / (2 * BOUND / (model.config.bins - 1)))
    with torch.no_grad():
        weight, bias = [*model.value.parameters()][-2:]  # of the last layer
        weight.copy_(weight.roll(shift, -2))
        bias.copy_(bias.roll(shift, -1))
    return True


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
