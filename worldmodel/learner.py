"""The update. All parameters lie in one buffer: Adam, clipping and averaging are single operations."""

import copy
import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from worldmodel import registry
from worldmodel.encoder import sense_dropout_mask
from worldmodel.losses import METRICS, Batch, UpdateNoise, losses, readable
from worldmodel.model import WorldModel
from worldmodel.settings import LearningConfig

UPDATE_METRICS = (*METRICS, "gradient_norm", "return_scale")


class LearningFault(ArithmeticError):
    """Raised when a loss or the gradient is no longer finite; the message names it."""


class Learner:
    """Holds the model, its target net and its optimiser; `update` takes one step of gradient descent.

    `acting`: the model with its weights averaged over recent updates (Polyak & Juditsky 1992; exponentially, as in
    Tarvainen & Valpola 2017, arXiv 1703.01780). The newest weights jitter from update to update; the average does not.
    """

    BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

    def __init__(self, model: WorldModel, discount: float, config: LearningConfig, compiled: bool = False):
        """Flatten the model's parameters and set up the optimiser. `discount` is over one whole token."""
        self.model, self.discount, self.config = model, discount, config
        self.flat = flatten(model)
        self.parameters = list(model.parameters())
        self.target = copy.deepcopy(model.value).requires_grad_(False)
        self.target_flat = flatten(self.target)
        self.acting = copy.deepcopy(model)
        self.acting.normaliser = model.normaliser
        self.average = flatten(self.acting)
        self.value_segment = segment(model, "value.")
        actor = segment(model, "actor.")
        self.groups = (slice(0, actor.start), actor)
        if actor.stop != self.flat.numel():
            raise ValueError("the actor's parameters must come last")
        self.lr = torch.full_like(self.flat, config.learning_rate)
        self.lr[segment(model, "encoder.")] *= config.vision_lr_scale if model.sees else config.encoder_lr_scale
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.updates = 0
        self.scale = torch.ones((), device=self.flat.device)
        self.gradient = torch.zeros_like(self.flat)
        self.grads = views(self.gradient, self.parameters)
        self.own = {name: registry.find("loss", name) or readable for name in config.losses}
        self.metric_names = (*UPDATE_METRICS, *(f"loss_{name}" for name in self.own))
        self._losses = torch.compile(losses, dynamic=False) if compiled else losses
        self._adam = torch.compile(adam, dynamic=False) if compiled else adam

    def update(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Take one step; return what `metric_names` lists. Raises LearningFault before any weight changes."""
        self.learn(batch, self.noise(batch, generator))
        return self.metrics

    def noise(self, batch: Batch, generator: torch.Generator) -> UpdateNoise:
        """Draw what one update needs."""
        size, count = len(batch.planned_token), len(self.model.senses)
        value_noise, policy_noise = torch.randn(2, size, self.model.points, generator=generator).to(self.flat.device)
        keep = torch.ones(size, count, device=self.flat.device)
        if count > 1:
            presence = batch.seen.map(lambda x: x[0]).presence
            keep = sense_dropout_mask(presence, self.model.shows, self.config.modality_dropout, generator)
        return UpdateNoise(value_noise, policy_noise, keep)

    def learn(self, batch: Batch, noise: UpdateNoise) -> None:
        """Take one step with given noise; store the metrics in `metrics`. Raises LearningFault as `update` does."""
        found = self._losses(self.model, self.target, batch, noise, self.scale, self.discount, self.config, self.own)
        gradients = torch.autograd.grad(found.total(self.config), self.parameters)
        torch._foreach_copy_(self.grads, gradients)
        shown = {name: getattr(found, name) for name in METRICS} | found.own
        norms = torch.stack([torch.linalg.vector_norm(self.gradient[group]) for group in self.groups])
        if not math.isfinite(float(norms.sum())):
            bad = [name for name, value in shown.items() if not torch.isfinite(value)]
            raise LearningFault(f"update {self.updates}: {', '.join(bad) or 'the gradient'} is not finite")
        self.updates += 1
        powers = [1 - self.BETA1**self.updates, 1 - self.BETA2**self.updates]
        correction = torch.tensor(powers, device=self.flat.device)
        with torch.no_grad():
            for group, norm in zip(self.groups, norms, strict=True):
                clip_coef = (self.config.grad_clip_norm / (norm + 1e-6)).clamp(max=1.0)
                moments = self.exp_avg[group], self.exp_avg_sq[group]
                self._adam(self.flat[group], self.gradient[group], *moments, self.lr[group], clip_coef, correction)
            self.target_flat.lerp_(self.flat[self.value_segment], self.config.tau)
            self.average.lerp_(self.flat, max(1 / self.updates, 1 / self.config.ema_updates))
            self.scale.lerp_(width(found.values).clamp(min=1.0), 0.01)
        parts = [torch.stack([shown[name].detach() for name in METRICS]), norms[:1], self.scale.view(1)]
        self.metrics = torch.cat([*parts, *(value.detach().view(1) for value in found.own.values())])

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a bit-identical resume needs in addition to the acting model's state."""
        return {
            "weights": self.flat,
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "target": self.target_flat,
            "scale": self.scale,
            "updates": torch.tensor(self.updates),
        }

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(saved[name])
        self.updates = int(saved["updates"])


def width(values: Float[Tensor, " N"]) -> Tensor:
    """Return the distance () from the 5 % to the 95 % quantile."""
    low, high = values.quantile(values.new_tensor([0.05, 0.95]))
    return high - low


def adam(
    parameter: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: Tensor,
    clip_coef: Tensor,
    correction: Tensor,
) -> None:
    """Apply Adam in place (Kingma & Ba 2015, algorithm 1). `lr`: per parameter; `correction`: 1 - beta^t of both."""
    grad = grad * clip_coef
    exp_avg.lerp_(grad, 1 - Learner.BETA1)
    exp_avg_sq.lerp_(grad.square(), 1 - Learner.BETA2)
    parameter.sub_(lr * (exp_avg / correction[0]) / ((exp_avg_sq / correction[1]).sqrt() + Learner.EPSILON))


def flatten(module: nn.Module) -> Tensor:
    """Move all parameters, in order, into a new 1-D buffer and return it; each becomes a view of it."""
    buffer = parameters_to_vector(module.parameters()).detach()
    vector_to_parameters(buffer, module.parameters())
    return buffer


def views(buffer: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Split a 1-D buffer into consecutive views, one with the shape of each parameter."""
    parts = buffer.split([p.numel() for p in parameters])
    return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]


def segment(module: nn.Module, prefix: str) -> slice:
    """Return the slice of the buffer with all parameters named `prefix`*. Raises ValueError if scattered or none."""
    start, places = 0, []
    for name, p in module.named_parameters():
        if name.startswith(prefix):
            places.append((start, start + p.numel()))
        start += p.numel()
    if not places or any(a[1] != b[0] for a, b in pairwise(places)):
        raise ValueError(f"parameters named {prefix}* do not stand together")
    return slice(places[0][0], places[-1][1])
