"""The cost of a decision: floating-point operations of matrix products, counted rather than estimated."""

import math
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from worldmodel.learner import Learner
from worldmodel.losses import Batch, losses
from worldmodel.planner import Planner
from worldmodel.settings import PlannerConfig


class _Dispatch:
    """Counts the operations of the matrix products that PyTorch dispatches, as its own FlopCounterMode does.

    Not itself a mode: PyTorch wraps `__torch_dispatch__` of those in what takes seconds to import (Dynamo).
    """

    flop = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        if count := flop_registry.get(function.overloadpacket):
            self.flop += count(*args, **kwargs or {}, out_val=result)
        return result


class _Counter(_Dispatch, TorchDispatchMode):
    pass


def gflop(work: Callable[[], object]) -> float:
    """Count the GFLOP of the matrix products that `work` runs (a multiply-add is 2 FLOP)."""
    with _Counter() as counter:
        work()
    return counter.flop / 1e9


def update_gflop(learner: Learner) -> float:
    """Count the GFLOP of one update, forward and backward, with its registered losses."""
    model, config = learner.model, learner.config
    h, b, p = config.horizon, config.batch_size, model.points
    ones, token = torch.ones(h, b, device=learner.flat.device), torch.zeros(h, b, p, device=learner.flat.device)
    seen = model.preprocess(model.blank((h + 1) * b)).map(lambda x: x.unflatten(0, (h + 1, b)))
    batch = Batch(seen, token, ones, ones, ones, token[0], ones[0])
    noise = learner.noise(batch, torch.Generator().manual_seed(0))

    def work():
        found = losses(model, learner.target, batch, noise, learner.scale, learner.discount, config, learner.own)
        torch.autograd.grad(found.total(config), learner.parameters)

    return gflop(work)


def plan_gflop(model, discount: float, config: PlannerConfig, model_calls: float | None = None) -> float:
    """Count the GFLOP of one plan for one observation: of all iterations, or scaled to `model_calls` model steps."""
    planner, plans = Planner(model, discount, config), []
    observation, generator = model.blank(1), torch.Generator().manual_seed(0)
    whole = gflop(lambda: plans.append(planner.plan(observation, None, generator, deadline=math.inf)))
    return whole if model_calls is None else whole * model_calls / max(plans[0].model_calls, 1)
