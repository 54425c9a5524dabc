"""What a decision costs: floating-point operations of matrix products, counted, not estimated."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from worldmodel.learner import Learner
from worldmodel.losses import Batch, loss
from worldmodel.model import STATE
from worldmodel.planner import propose, refine
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
    batch = Batch(zeros[..., : model.state_size], zeros[:h, :, :p], ones, ones, ones)
    noise = (zeros[0, :, :p], zeros[0, :, :p])

    def work():
        total, _, _ = loss(model, learner.target, batch, noise, learner.scale, learner.discount, config)
        torch.autograd.grad(total, learner.parameters)

    return gflop(work)


def plan_gflop(model, discount: float, config: PlannerConfig) -> float:
    """GFLOP of one plan for one observation at the full budget."""
    device = next(model.parameters()).device
    shape = (config.horizon, 1, config.samples, model.token_size)
    noise = torch.zeros(shape, device=device)
    own = config.policy_samples

    @torch.no_grad()
    def work():
        z = model.encode({STATE: torch.zeros(1, model.state_size, device=device)})
        fixed = propose(model, z, noise[:, :, :own])
        spread = torch.ones(config.horizon, 1, model.token_size, device=device)
        for _ in range(config.iterations):
            refine(model, z, fixed, noise[:, :, own:], spread, noise[:, :, own:], discount, config)

    return gflop(work)
