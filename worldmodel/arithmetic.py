"""What a decision costs: floating-point operations of matrix products, counted, not estimated."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from worldmodel.learner import Learner
from worldmodel.losses import Batch, loss
from worldmodel.model import STATE
from worldmodel.planner import Planner
from worldmodel.settings import PlannerConfig


def gflop(work: Callable[[], object]) -> float:
    """GFLOP of the matrix products that `work` runs (a multiply-add is 2)."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def update_gflop(learner: Learner) -> float:
    """GFLOP of one update, forward and backward."""
    model, config = learner.model, learner.config
    h, b, p = config.horizon, config.batch, model.token_size
    ones = torch.ones(h, b, device=learner.flat.device)
    zeros = torch.zeros(h + 1, b, max(p, model.state_size), device=learner.flat.device)
    batch = Batch(zeros[..., : model.state_size], zeros[:h, :, :p], ones, ones, ones, zeros[0, :, :p])
    noise = (zeros[0, :, : model.points], zeros[0, :, : model.points])

    def work():
        total, _, _ = loss(model, learner.target, batch, noise, learner.scale, learner.discounts, config)
        torch.autograd.grad(total, learner.parameters)

    return gflop(work)


def plan_gflop(model, discounts: Sequence[float], config: PlannerConfig, imagined: float | None = None) -> float:
    """GFLOP of one plan for one observation: of all its budget, or of `imagined` steps of it."""
    device = next(model.parameters()).device
    planner = Planner(model, discounts, replace(config, budget="fixed"))
    observation = {STATE: torch.zeros(1, model.state_size, device=device)}
    generator = torch.Generator().manual_seed(0)
    plans = []
    whole = gflop(lambda: plans.append(planner.plan(observation, None, generator, deadline=math.inf)))
    return whole if imagined is None else whole * imagined / float(plans[0].imagined[0])
