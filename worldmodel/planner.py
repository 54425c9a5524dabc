"""Planning: search over sentences of tokens in imagination.

Model-predictive path integral control (Williams et al. 2015, arXiv 1509.01149; in latent space: Hansen et al. 2022,
arXiv 2203.04955), anchored on the policy: candidates are drawn around the policy's own rollout and around the last
plan, elites are weighted by return in units of their own spread, and their mean is executed.
"""

import time
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel.elites import Elites, common
from worldmodel.imagination import foresee, propose, refine
from worldmodel.model import WorldModel
from worldmodel.settings import PlannerConfig


class PlanFault(ArithmeticError):
    """No candidate had a finite return."""


@dataclass(frozen=True)
class Memory:
    """What one plan leaves to the next: its mean sentence (T, B, P), from where that plan begins, and whether (B,) it
    still applies."""

    mean: Float[Tensor, "T B P"]
    valid: Bool[Tensor, " B"]

    @classmethod
    def of(cls, mean: Float[Tensor, "T B P"]) -> "Memory":
        """What is to be started from, by every one of the B."""
        return cls(mean, torch.ones(mean.shape[1], dtype=torch.bool, device=mean.device))

    def where(self, chosen: Bool[Tensor, " B"], other: "Memory | None") -> "Memory":
        """This memory for the environments (B,) chosen, the other one for the rest."""
        chosen = chosen.to(self.valid.device)
        if other is None:
            return Memory(self.mean, self.valid & chosen)
        mean = torch.where(chosen[None, :, None], self.mean, other.mean)
        return Memory(mean, torch.where(chosen, self.valid, other.valid))


@dataclass(frozen=True)
class Plan:
    """The sentence chosen for each of B latents.

    tokens, spread (T, B, P): weighted mean of the elites, and the deviation of its points. returns, weights (B, E): of
    the elites (T, B, E, P). latent (B, D): where the plan starts. spent: iterations done. imagined (B,): calls of the
    model's step for each latent.
    """

    tokens: Float[Tensor, "T B P"]
    spread: Float[Tensor, "T B P"]
    returns: Float[Tensor, "B E"]
    weights: Float[Tensor, "B E"]
    elites: Float[Tensor, "T B E P"]
    latent: Float[Tensor, "B D"]
    spent: int
    imagined: Int[Tensor, " B"]

    @property
    def worth(self) -> Float[Tensor, " B"]:
        """What each plan promises: the mean return of its elites."""
        return (self.weights * torch.where(self.weights > 0, self.returns, 0)).sum(-1)


class Planner:
    """Plans for B latents at once, within a budget of iterations or of time."""

    def __init__(self, model: WorldModel, discount: float, config: PlannerConfig, compiled: bool = False):
        """`discount`: over one whole token."""
        self.model, self.discount, self.config = model, discount, config
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self._perceive, self._propose, self._refine = wrap(model.perceive), wrap(propose), wrap(refine)
        self._foresee = wrap(foresee)

    @torch.no_grad()
    def foresee(
        self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"]
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """`foresee` of this planner's model."""
        return self._foresee(self.model, z, w, self.discount)

    @torch.no_grad()
    def plan(
        self,
        observation: dict[str, Tensor],
        memory: Memory | None,
        generator: torch.Generator,
        deadline: float | None = None,
        start: Float[Tensor, "B A"] | None = None,
    ) -> Plan:
        """Plan from B observations. `deadline`: a time of time.perf_counter() after which no iteration begins.

        Without one it is `deadline_ms` of the settings from now, or never where that is 0. `start`: where the curves
        before end, which joined tokens go on from, 0 unless given. Returns the best so far at the latest one iteration
        after the deadline. Raises PlanFault if some observation leaves no candidate with a finite return.
        """
        config = self.config
        if deadline is None and config.deadline_ms:
            deadline = time.perf_counter() + config.deadline_ms / 1000
        z = self._perceive(self.model.prepare(observation))
        shape = (config.horizon, len(z), config.samples, self.model.points)
        noise = torch.randn(config.iterations, *shape, generator=generator).to(z.device)
        start = z.new_zeros(len(z), self.model.shared) if start is None else start.to(z.device)
        lots = self._first_lots(z, memory, start, noise[0])
        mode, none = lots[0][:, :, :1], lots[0][:, :, :0]
        found = self._refine(self.model, z, none, z.new_empty(len(z), 0), lots[0], mode, self.discount, config)
        imagined = torch.full((len(z),), config.policy_samples * (config.horizon - 1) + lots[0][:, 0, :, 0].numel())
        asking, spent = torch.ones(len(z), dtype=torch.bool, device=z.device), 1
        redraws = iter(noise[1:])
        for lot in range(1, len(lots) + config.iterations - 1):
            if config.budget == "adaptive":
                asking = asking & (found.relative_spread > config.agreement)
                if not bool(asking.any()):
                    break
            if deadline is not None and time.perf_counter() >= deadline:
                break
            fresh = lots[lot] if lot < len(lots) else self._redrawn(found, next(redraws), start, generator)
            kept = found.plans, found.returns
            better = self._refine(self.model, z, *kept, fresh, mode, self.discount, config)
            found = better if bool(asking.all()) else better.where(asking, found)
            imagined += asking.cpu() * fresh[:, 0, :, 0].numel()
            spent += 1
        if not bool(torch.isfinite(found.mean).all()):
            raise PlanFault("no candidate plan has a finite return: a weight or an observation is not finite")
        return Plan(
            tokens=found.mean,
            spread=found.spread,
            returns=found.returns,
            weights=found.weights,
            elites=found.plans,
            latent=z,
            spent=spent,
            imagined=imagined,
        )

    def _first_lots(
        self, z: Tensor, memory: Memory | None, start: Float[Tensor, "B A"], noise: Float[Tensor, "T B N P"]
    ) -> list[Tensor]:
        """The first candidates: rollouts of the policy, noise around its mode and around the last plan, and that plan.

        With an adaptive budget in two lots: those that cost no search, and the noise.
        """
        config, noise = self.config, noise.clone()
        own, free = config.policy_samples, config.samples - config.policy_samples
        noise[:, :, 0] = 0  # the first rollout is the policy's mode
        proposed = self._propose(self.model, z, noise[:, :, :own], start)
        mode = proposed[:, :, :1]
        carried = int(config.carry * free)
        last = mode.expand(-1, -1, carried, -1)
        if memory is not None and config.carry:
            last = torch.where(memory.valid[None, :, None, None], memory.mean.unsqueeze(2), last)
        if carried:
            noise[:, :, -1] = 0  # and the last candidate is the last plan itself
        centres = torch.cat([mode.expand(-1, -1, free - carried, -1), last], 2)
        around = self._around(centres, config.spread * noise[:, :, own:], start)
        if config.budget == "fixed":
            return [torch.cat([proposed, around], 2)]
        return [torch.cat([proposed, around[:, :, -1:]], 2), around[:, :, :-1]]

    def _redrawn(
        self,
        found: Elites,
        noise: Float[Tensor, "T B N P"],
        start: Float[Tensor, "B A"],
        generator: torch.Generator,
    ) -> Float[Tensor, "T B M P"]:
        """Candidates of the elites' own distribution, as many as there is noise for beside the elites kept."""
        swing = found.spread.unsqueeze(2) * noise[:, :, self.config.elites :]
        if self.config.together:
            drawn = torch.randn(*found.returns.shape, swing.shape[2], generator=generator).to(noise.device)
            swing = self._together(swing, found, drawn)
        return self._around(found.mean.unsqueeze(2), swing, start)

    def _together(
        self, alone: Float[Tensor, "T B N P"], found: Elites, noise: Float[Tensor, "B E N"]
    ) -> Float[Tensor, "T B N P"]:
        """What is drawn number by number, mixed with sums of the elites' ways off their mean: of their own covariance.

        One `noise` for the whole sentence: a Gaussian of rank E at most.
        """
        _, ways = common(found.plans, found.weights)
        share = self.config.together
        return (1 - share) ** 0.5 * alone + share**0.5 * torch.einsum("tbep,ben->tbnp", ways, noise)

    def _around(
        self, centre: Float[Tensor, "T B M P"], noise: Float[Tensor, "T B N P"], start: Float[Tensor, "B A"]
    ) -> Float[Tensor, "T B N P"]:
        """Tokens whose points are moved; M = N, or 1 for all."""
        points = (centre + noise).clamp(-1, 1)
        first = start.unsqueeze(1).expand(-1, points.shape[2], -1)
        return self.model.token(points, self.model.before(points, first))
