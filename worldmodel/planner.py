"""Planning: search over sentences of tokens in imagination.

Model-predictive path integral control (Williams et al. 2015, arXiv 1509.01149; in latent space: Hansen et al. 2022,
arXiv 2203.04955), anchored on the policy: candidates are drawn around the policy's own rollout and around the last
plan, elites are weighted by return in units of their own spread, and their mean is executed.
"""

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel import twohot
from worldmodel.model import WorldModel
from worldmodel.settings import PlannerConfig


class PlanFault(ArithmeticError):
    """No candidate had a finite return."""


@dataclass(frozen=True)
class Memory:
    """What one plan leaves to the next: its mean sentence (T, B, P), from where that plan begins, and whether (B,) it
    still applies."""

    mean: Float[Tensor, "T B P"]
    valid: Bool[Tensor, "B"]

    @classmethod
    def of(cls, mean: Float[Tensor, "T B P"]) -> "Memory":
        """What is to be started from, by every one of the B."""
        return cls(mean, torch.ones(mean.shape[1], dtype=torch.bool, device=mean.device))

    def where(self, chosen: Bool[Tensor, "B"], other: "Memory | None") -> "Memory":
        """This memory for the environments (B,) chosen, the other one for the rest."""
        chosen = chosen.to(self.valid.device)
        if other is None:
            return Memory(self.mean, self.valid & chosen)
        mean = torch.where(chosen[None, :, None], self.mean, other.mean)
        return Memory(mean, torch.where(chosen, self.valid, other.valid))


@dataclass(frozen=True)
class Plan:
    """The sentence chosen for each of B latents.

    tokens, spread (T, B, P): weighted mean and deviation of the elites. returns, weights (B, E): of the elites.
    elites (T, B, E, P). latent (B, D): where the plan starts. spent: iterations done. imagined (B,): calls of the
    model's step for each latent.
    """

    tokens: Float[Tensor, "T B P"]
    spread: Float[Tensor, "T B P"]
    returns: Float[Tensor, "B E"]
    weights: Float[Tensor, "B E"]
    elites: Float[Tensor, "T B E P"]
    latent: Float[Tensor, "B D"]
    spent: int
    imagined: Int[Tensor, "B"]


def propose(model: WorldModel, z: Float[Tensor, "B D"], noise: Float[Tensor, "T B N P"]) -> Float[Tensor, "T B N P"]:
    """Roll the policy out in imagination, N times from each latent; where the noise is 0 it is the policy's mode."""
    horizon, size, count, _ = noise.shape
    z = z.repeat_interleave(count, 0)
    tokens = []
    for t in range(horizon):
        w, _ = model.policy(z).sample(noise[t].flatten(0, 1))
        tokens.append(w.view(size, count, -1))
        if t + 1 < horizon:
            z = model.next(model.leap(z, w))
    return torch.stack(tokens)


def score(
    model: WorldModel,
    z: Float[Tensor, "B D"],
    tokens: Float[Tensor, "T B N P"],
    discount: float,
    depths: bool,
) -> Float[Tensor, "B N"]:
    """Return of each sentence. With `depths`, the mean over k = 0..T of: k imagined rewards, then a value.

    The mean over depths weighs the value at each depth the same, so that no single bad one can win.
    """
    horizon, size, count, _ = tokens.shape
    z = z.repeat_interleave(count, 0)
    total = torch.zeros(len(z), device=z.device)
    earned, factor = torch.zeros_like(total), torch.ones_like(total)
    for t in range(horizon):
        w = tokens[t].flatten(0, 1)
        if depths:
            total = total + earned + factor * twohot.mean(model.value(z, w)).mean(0)
        imagined = model.step(z, w)
        earned = earned + factor * imagined.reward
        factor = factor * discount * torch.sigmoid(imagined.continue_logit)
        z = imagined.latent
    total = total + earned + factor * twohot.mean(model.value(z, model.policy(z).mode)).mean(0)
    return (total / (horizon + 1) if depths else total).view(size, count)


def refine(
    model: WorldModel,
    z: Float[Tensor, "B D"],
    kept: Float[Tensor, "T B K P"],
    kept_returns: Float[Tensor, "B K"],
    fresh: Float[Tensor, "T B N P"],
    discount: float,
    config: PlannerConfig,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One iteration: score the `fresh` sentences, `elect` among them and those `kept` from before."""
    returns = torch.cat([kept_returns, score(model, z, fresh, discount, config.depths)], 1)
    return elect(torch.cat([kept, fresh], 2), returns, config)


def elect(
    candidates: Float[Tensor, "T B N P"], returns: Float[Tensor, "B N"], config: PlannerConfig
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The elites among candidates of known returns, and what they say together.

    Gives mean and spread (T, B, P), returns and weights (B, E), elites (T, B, E, P), and their `doubt` (B,). A
    candidate whose return is not finite is ranked last, with weight 0, and so are those that stand in where there are
    too few. Weights: exp(return / unit), as in MPPI (Williams et al. 2017, arXiv 1707.02342), over elites as in
    TD-MPC2; `unit` follows the elites' own deviation.
    """
    returns = torch.where(torch.isfinite(returns), returns, -torch.inf)
    if (missing := config.elites - returns.shape[1]) > 0:
        returns = F.pad(returns, (0, missing), value=-torch.inf)
        candidates = torch.cat([candidates, candidates[:, :, :1].expand(-1, -1, missing, -1)], 2)
    best, index = returns.topk(config.elites, -1)
    index = index[None, :, :, None].expand(len(candidates), -1, -1, candidates.shape[-1])
    elites = candidates.gather(2, index)
    deviation = _deviation(best)
    unit = config.temperature * (deviation.square() + config.indifference**2).sqrt()
    weights = torch.softmax((best - best[:, :1]) / unit, -1)
    mean = torch.einsum("be,tbep->tbp", weights, elites)
    variance = torch.einsum("be,tbep->tbp", weights, (elites - mean.unsqueeze(2)).square())
    spread = variance.sqrt().clamp(config.min_spread, config.spread)
    return mean, spread, best, weights, elites, doubt(best, config.indifference)


class Planner:
    """Plans for B latents at once, within a budget of iterations or of time."""

    def __init__(self, model: WorldModel, discount: float, config: PlannerConfig, compiled: bool = False):
        self.model, self.discount, self.config = model, discount, config
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self._encode, self._propose, self._refine = wrap(model.encode), wrap(propose), wrap(refine)

    @torch.no_grad()
    def plan(
        self,
        observation: dict[str, Tensor],
        memory: Memory | None,
        generator: torch.Generator,
        deadline: float | None = None,
    ) -> Plan:
        """Plan from B observations. `deadline`: a time of time.perf_counter() after which no iteration begins.

        Without one it is `deadline_ms` of the settings from now, or never where that is 0. Returns the best so far at
        the latest one iteration after the deadline. Raises PlanFault if some observation leaves no candidate with a
        finite return.
        """
        config = self.config
        if deadline is None and config.deadline_ms:
            deadline = time.perf_counter() + config.deadline_ms / 1000
        z = self._encode(observation)
        shape = (config.horizon, len(z), config.samples, self.model.token_size)
        noise = torch.randn(config.iterations, *shape, generator=generator).to(z.device)
        first, *more = self._begin(z, memory, noise[0])
        elites, returns = first[:, :, :0], first.new_empty(len(z), 0)
        found = self._refine(self.model, z, elites, returns, first, self.discount, config)
        imagined = torch.full((len(z),), config.policy_samples * (config.horizon - 1) + first[:, 0, :, 0].numel())
        asking, spent = torch.ones(len(z), dtype=torch.bool, device=z.device), 1
        for i in range(1, config.iterations + len(more)):
            if config.budget == "adaptive":
                asking = asking & (found[5] > config.agreement)
                if not bool(asking.any()):
                    break
            if deadline is not None and time.perf_counter() >= deadline:
                break
            mean, spread, returns, _, elites, _ = found
            draws = noise[i - len(more), :, :, config.elites :]
            fresh = more[0] if i <= len(more) else (mean.unsqueeze(2) + spread.unsqueeze(2) * draws).clamp(-1, 1)
            better = self._refine(self.model, z, elites, returns, fresh, self.discount, config)
            found = better if bool(asking.all()) else _where(asking, better, found)
            imagined += asking.cpu() * fresh[:, 0, :, 0].numel()
            spent += 1
        mean, spread, returns, weights, elites, _ = found
        if not bool(torch.isfinite(mean).all()):
            raise PlanFault("no candidate plan has a finite return: a weight or an observation is not finite")
        return Plan(mean, spread, returns, weights, elites, z, spent, imagined)

    def _begin(self, z: Tensor, memory: Memory | None, noise: Float[Tensor, "T B N P"]) -> list[Tensor]:
        """The first candidates: rollouts of the policy, noise around its mode and around the last plan, and that plan.

        With an adaptive budget in two lots: those that cost no search, and the noise.
        """
        config = self.config
        own, free = config.policy_samples, config.samples - config.policy_samples
        noise[:, :, 0] = 0  # the first rollout is the policy's mode
        proposed = self._propose(self.model, z, noise[:, :, :own])
        mode = last = proposed[:, :, :1]
        if memory is not None and config.carry:
            last = torch.where(memory.valid[None, :, None, None], memory.mean.unsqueeze(2), mode)
        carried = int(config.carry * free)
        centre = torch.cat([mode.expand(-1, -1, free - carried, -1), last.expand(-1, -1, carried, -1)], 2)
        if carried:
            noise[:, :, -1] = 0  # and the last candidate is the last plan itself
        around = (centre + config.spread * noise[:, :, own:]).clamp(-1, 1)
        if config.budget == "fixed":
            return [torch.cat([proposed, around], 2)]
        return [torch.cat([proposed, around[:, :, -1:]], 2), around[:, :, :-1]]


def doubt(returns: Float[Tensor, "B E"], indifference: float) -> Float[Tensor, "B"]:
    """How far the elites disagree: the deviation of their returns, relative to the best one's size.

    Candidates whose return is not finite are left out; with none that is, the doubt is infinite.
    """
    finite = torch.isfinite(returns)
    size = torch.where(finite, returns, 0.0).abs().amax(-1)
    return torch.where(finite.any(-1), _deviation(returns)[..., 0] / (size + indifference), torch.inf)


def _deviation(returns: Float[Tensor, "B E"]) -> Float[Tensor, "B 1"]:
    """Standard deviation of those that are finite; 0 where none is."""
    finite = torch.isfinite(returns)
    known = torch.where(finite, returns, 0.0)
    count = finite.sum(-1, keepdim=True).clamp(min=1)
    middle = known.sum(-1, keepdim=True) / count
    return (torch.where(finite, known - middle, 0.0).square().sum(-1, keepdim=True) / count).sqrt()


def _where(chosen: Bool[Tensor, "B"], new: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What `refine` found last for the latents chosen, and what it found before for the rest."""
    axis = (1, 1, 0, 0, 1, 0)  # where B stands
    shapes = [[1] * k + [-1] + [1] * (a.dim() - k - 1) for a, k in zip(new, axis, strict=True)]
    return tuple(torch.where(chosen.view(v), a, b) for v, a, b in zip(shapes, new, old, strict=True))
