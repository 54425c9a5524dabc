"""Planning: search over sequences of tokens in imagination.

Model-predictive path integral control (Williams et al. 2015, arXiv 1509.01149; in latent space: Hansen et al. 2022,
arXiv 2203.04955), guided by the policy: candidates are drawn around the policy's own rollout and around the last
plan, elites are weighted by return in units of their own spread, and their mean is the plan.
"""

import time
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel.elites import Elites, common
from worldmodel.imagination import foresee, judge, propose, refine
from worldmodel.model import WorldModel
from worldmodel.settings import PlannerConfig


class PlanFault(ArithmeticError):
    """Raised when no candidate has a finite return."""


@dataclass(frozen=True)
class Memory:
    """What one plan leaves for the next to start from.

    mean (T, B, P): the last plan, already advanced to where the next one begins. valid (B,): whether it still applies.
    """

    mean: Float[Tensor, "T B P"]
    valid: Bool[Tensor, " B"]

    @classmethod
    def of(cls, mean: Float[Tensor, "T B P"]) -> "Memory":
        """Return a memory of this mean that is valid for all B environments."""
        return cls(mean, torch.ones(mean.shape[1], dtype=torch.bool, device=mean.device))

    def where(self, chosen: Bool[Tensor, " B"], other: "Memory | None") -> "Memory":
        """Take this memory for the environments (B,) `chosen`, `other` for the rest (no valid plan if None)."""
        chosen = chosen.to(self.valid.device)
        if other is None:
            return Memory(self.mean, self.valid & chosen)
        mean = torch.where(chosen[None, :, None], self.mean, other.mean)
        return Memory(mean, torch.where(chosen, self.valid, other.valid))


@dataclass(frozen=True)
class Plan:
    """The plans chosen for B latents.

    tokens, spread (T, B, P): weighted mean and standard deviation of the elites' points. returns, weights (B, E): of
    the elites (T, B, E, P). latent (B, D): where the plan starts. spent: iterations done. imagined (B,): model steps
    imagined for each latent. mode (T, B, P): the policy's own plan.
    """

    tokens: Float[Tensor, "T B P"]
    spread: Float[Tensor, "T B P"]
    returns: Float[Tensor, "B E"]
    weights: Float[Tensor, "B E"]
    elites: Float[Tensor, "T B E P"]
    latent: Float[Tensor, "B D"]
    spent: int
    imagined: Int[Tensor, " B"]
    mode: Float[Tensor, "T B P"]

    @property
    def worth(self) -> Float[Tensor, " B"]:
        """The return that each plan promises: the weighted mean return of its elites, (B,)."""
        return (self.weights * torch.where(self.weights > 0, self.returns, 0)).sum(-1)


class Planner:
    """Plans for B latents at once, within a budget of iterations, of time, or both."""

    def __init__(self, model: WorldModel, discount: float, config: PlannerConfig, compiled: bool = False):
        """Wrap a model for planning. `discount` is over one whole token; `compiled` uses torch.compile."""
        self.model, self.discount, self.config = model, discount, config
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self._perceive, self._propose, self._refine = wrap(model.perceive), wrap(propose), wrap(refine)
        self._foresee, self._judge = wrap(foresee), wrap(judge)
        self.anchor = torch.tensor(config.anchor, device=model.device) if config.leash == "anchor" else None

    @torch.no_grad()
    def foresee(
        self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"]
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Call `imagination.foresee` with this planner's model and discount."""
        return self._foresee(self.model, z, w, self.discount)

    @torch.no_grad()
    def judge(
        self, z: Float[Tensor, "B D"], mode: Float[Tensor, "T B P"], plan: Float[Tensor, "T B P"]
    ) -> tuple[Float[Tensor, "E B"], Float[Tensor, "E B"]]:
        """Return the returns of the policy's own plan and of another one, by each value head."""
        own, other = self._judge(self.model, z, torch.stack([mode, plan], 2), self.discount).unbind(-1)
        return own, other

    @torch.no_grad()
    def plan(
        self,
        observation: dict[str, Tensor],
        memory: Memory | None,
        generator: torch.Generator,
        deadline: float | None = None,
        start: Float[Tensor, "B A"] | None = None,
    ) -> Plan:
        """Plan from B observations, as for `WorldModel.encode`.

        `deadline` is a `time.perf_counter()` time after which no further iteration begins; by default `deadline_ms` of
        the settings from now, or none if that is 0. The first iteration always runs, and the best plan so far is
        returned at most one iteration after the deadline. `start` is where the previous curves end, from which joined
        tokens continue (0 by default). Raises PlanFault if some observation has no candidate with a finite return.
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
        found = self._refine(
            self.model, z, none, z.new_empty(len(z), 0), lots[0], mode, self.discount, config, self.anchor
        )
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
            better = self._refine(self.model, z, *kept, fresh, mode, self.discount, config, self.anchor)
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
            mode=mode[:, :, 0],
        )

    def _first_lots(
        self, z: Tensor, memory: Memory | None, start: Float[Tensor, "B A"], noise: Float[Tensor, "T B N P"]
    ) -> list[Tensor]:
        """Return the first candidates: policy rollouts, the last plan, and noise around that and the policy's mode.

        Under an adaptive budget they come in two lots: first the policy's rollouts and the last plan, then the noise.
        """
        config, noise = self.config, noise.clone()
        own, free = config.policy_samples, config.samples - config.policy_samples
        noise[:, :, 0] = 0  # makes the first rollout the policy's mode
        proposed = self._propose(self.model, z, noise[:, :, :own], start)
        mode = proposed[:, :, :1]
        carried = int(config.carry * free)
        last = mode.expand(-1, -1, carried, -1)
        if memory is not None and config.carry:
            last = torch.where(memory.valid[None, :, None, None], memory.mean.unsqueeze(2), last)
        if carried:
            noise[:, :, -1] = 0  # makes the last candidate the last plan itself
        centres = torch.cat([mode.expand(-1, -1, free - carried, -1), last], 2)
        around = self._around(centres, self._widths(proposed, free) * noise[:, :, own:], start)
        if config.budget == "fixed":
            return [torch.cat([proposed, around], 2)]
        return [torch.cat([proposed, around[:, :, -1:]], 2), around[:, :, :-1]]

    def _widths(self, proposed: Float[Tensor, "T B K P"], count: int) -> float | Tensor:
        """Return the standard deviation of the noise of the first `count` candidates, to broadcast to (T, B, M, P)."""
        config = self.config
        if config.widths == "mixed":
            shares = proposed.new_tensor([0.2, 0.5, 1.0]).repeat(-(-count // 3))[:count]
            return config.spread * shares.unsqueeze(1)
        if config.widths == "policy":
            return (2 * proposed.std(2, correction=0, keepdim=True)).clamp(config.min_spread, config.spread)
        return config.spread

    def _redrawn(
        self,
        found: Elites,
        noise: Float[Tensor, "T B N P"],
        start: Float[Tensor, "B A"],
        generator: torch.Generator,
    ) -> Float[Tensor, "T B M P"]:
        """Draw M = N - E candidates from the distribution fitted to the E elites, which stay candidates themselves."""
        swing = found.spread.unsqueeze(2) * noise[:, :, self.config.elites :]
        if self.config.together:
            drawn = torch.randn(*found.returns.shape, swing.shape[2], generator=generator).to(noise.device)
            swing = self._together(swing, found, drawn)
        return self._around(found.mean.unsqueeze(2), swing, start)

    def _together(
        self, alone: Float[Tensor, "T B N P"], found: Elites, noise: Float[Tensor, "B E N"]
    ) -> Float[Tensor, "T B N P"]:
        """Mix the independent noise `alone` with noise of the elites' covariance, which has the share `together`.

        The latter combines the elites' weighted deviations from their mean; one draw covers the whole plan, so it is a
        Gaussian of rank E at most.
        """
        _, ways = common(found.plans, found.weights)
        share = self.config.together
        return (1 - share) ** 0.5 * alone + share**0.5 * torch.einsum("tbep,ben->tbnp", ways, noise)

    def _around(
        self, centre: Float[Tensor, "T B M P"], noise: Float[Tensor, "T B N P"], start: Float[Tensor, "B A"]
    ) -> Float[Tensor, "T B N P"]:
        """Return tokens with points `centre` + `noise`, clipped to [-1, 1]; M is N, or 1 for a common centre."""
        points = (centre + noise).clamp(-1, 1)
        first = start.unsqueeze(1).expand(-1, points.shape[2], -1)
        return self.model.token(points, self.model.before(points, first))
