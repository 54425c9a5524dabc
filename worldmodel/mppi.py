"""Model-predictive path integral control: search over plans of tokens by sampling, elites and their weighted mean.

Source: Williams et al. 2015 (arXiv 1509.01149); in latent space, with a value at the end of a plan and a policy that
proposes candidates: Hansen et al. 2022 (arXiv 2203.04955). All that it knows of a model is a `Search`.

Candidates are samples of a Gaussian, which can be conditioned on linear readings: with w = mean + U e, e standard
normal, a reading C w = value of noise with covariance N moves e by (C U)^T S^-1 (value - C mean), S = C U U^T C^T + N.
A sample of w and one of the noise, moved alike, are a sample of the conditioned Gaussian (Matheron's rule: Wilson et
al. 2021, arXiv 2011.04026).

Letters in shapes: T tokens in a plan, B searches at once, N candidates, E elites, P numbers in a token, S numbers in
the state of a search.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.settings import PlannerConfig


class PlanFault(ArithmeticError):
    """Raised when no candidate has a finite return."""


class Step(NamedTuple):
    """What one token does: the token as executed, the state after it, its reward, the probability to continue."""

    token: Float[Tensor, "B P"]
    state: Float[Tensor, "B S"]
    reward: Float[Tensor, " B"]
    continues: Float[Tensor, " B"]


@dataclass(frozen=True)
class Search:
    """A model as three functions.

    `propose(root (B, S), noise (T, B, N, P))` -> (T, B, N, P): N plans by the policy; noise 0 gives its mode.
    `step(state (B, S), points (B, P))` -> Step: the outcome of one token. It may replace some of the numbers chosen, as
    joined tokens do with their beginning. `value(state (B, S))` -> (B,): the return from there on. `discount`: over
    one whole token.
    """

    propose: Callable[[Tensor, Tensor], Tensor]
    step: Callable[[Tensor, Tensor], Step]
    value: Callable[[Tensor], Tensor]
    discount: float = 1.0


@dataclass(frozen=True)
class WarmStart:
    """What the next plan starts from: the last one, advanced to where the next begins (T, B, P), where `valid` (B,)."""

    mean: Float[Tensor, "T B P"]
    valid: Bool[Tensor, " B"]

    @classmethod
    def of(cls, mean: Float[Tensor, "T B P"]) -> "WarmStart":
        """Return a warm start from this mean that is valid for all B environments."""
        return cls(mean, torch.ones(mean.shape[1], dtype=torch.bool, device=mean.device))

    def where(self, chosen: Bool[Tensor, " B"], other: "WarmStart | None") -> "WarmStart":
        """Take this warm start for the environments (B,) `chosen`, `other` for the rest (not valid there if None)."""
        chosen = chosen.to(self.valid.device)
        if other is None:
            return WarmStart(self.mean, self.valid & chosen)
        mean = torch.where(chosen[None, :, None], self.mean, other.mean)
        return WarmStart(mean, torch.where(chosen, self.valid, other.valid))


@dataclass(frozen=True)
class Plan:
    """The distribution fitted to the elites of B searches; its mean is the plan.

    tokens, std (T, B, P): weighted mean and standard deviation of the elites (T, B, E, P). returns, weights (B, E):
    of the elites, best score first (`fit`). latent (B, D): where the plan starts (of `mppi`: its root, (B, S)).
    iterations: how many were done. model_calls: model steps imagined for each of the B. scores (B, N): of the last
    iteration's candidates (of `mppi`).
    """

    tokens: Float[Tensor, "T B P"]
    std: Float[Tensor, "T B P"]
    returns: Float[Tensor, "B E"]
    weights: Float[Tensor, "B E"]
    elites: Float[Tensor, "T B E P"]
    latent: Float[Tensor, "B D"]
    iterations: int = 1
    model_calls: int = 0
    scores: Float[Tensor, "B N"] | None = None

    @property
    def expected_return(self) -> Float[Tensor, " B"]:
        """The return that each plan predicts: the weighted mean return of its elites, (B,)."""
        return (self.weights * torch.where(self.weights > 0, self.returns, 0)).sum(-1)


def mppi(
    search: Search,
    root: Float[Tensor, "B S"],
    warm_start: WarmStart | None,
    noise: Float[Tensor, "I T B N P"],
    config: PlannerConfig,
    late: Callable[[], bool] = lambda: False,
    compiled: Callable[..., Plan] | None = None,
    held: Callable[[Tensor, Tensor], Tensor] = lambda candidates, std: candidates,
) -> Plan:
    """Plan from B states, in one iteration for each entry of `noise`, which is standard normal.

    Each iteration draws candidates, scores them and fits a Gaussian to the elites, which stay candidates themselves.
    None begins once `late()`; the first always runs. `compiled`: the compiled `refine`. `held`: moves candidates (T, B,
    N, P), drawn with deviations (T, B, P), to where they are to be. Raises PlanFault if a state has no candidate with a
    finite return.
    """
    iterate = compiled or refine
    candidates = initial_candidates(search, root, warm_start, noise[0], config)
    mode, none = candidates[:, :, :1], candidates[:, :, :0]
    candidates = held(candidates, torch.full_like(mode[:, :, 0], config.std))
    plan, done = iterate(search, root, none, root.new_empty(len(root), 0), candidates, mode, config), 1
    while done < len(noise) and not late():
        fresh = held(resample(plan, noise[done]), plan.std)
        plan, done = iterate(search, root, plan.elites, plan.returns, fresh, mode, config), done + 1
    if not bool(torch.isfinite(plan.tokens).all()):
        raise PlanFault("no candidate plan has a finite return: a weight or an observation is not finite")
    horizon, _, count, _ = candidates.shape
    scored = count + (done - 1) * (count - config.elites)
    calls = config.policy_samples * (horizon - 1) + horizon * scored
    return replace(plan, iterations=done, model_calls=calls)


def initial_candidates(
    search: Search,
    root: Float[Tensor, "B S"],
    warm_start: WarmStart | None,
    noise: Float[Tensor, "T B N P"],
    config: PlannerConfig,
) -> Float[Tensor, "T B N P"]:
    """Return policy rollouts, the first its mode; noise around that; noise around the last plan; it itself."""
    noise = noise.clone()
    rollouts, free = config.policy_samples, config.samples - config.policy_samples
    warm = int(config.warm_start_fraction * free)
    noise[:, :, 0] = 0
    if warm:
        noise[:, :, -1] = 0
    proposed = search.propose(root, noise[:, :, :rollouts])
    mode = proposed[:, :, :1]
    last = mode.expand(-1, -1, warm, -1)
    if warm_start is not None and warm:
        last = torch.where(warm_start.valid[None, :, None, None], warm_start.mean.unsqueeze(2), last)
    centres = torch.cat([mode.expand(-1, -1, free - warm, -1), last], 2)
    return torch.cat([proposed, (centres + config.std * noise[:, :, rollouts:]).clamp(-1, 1)], 2)


def resample(plan: Plan, noise: Float[Tensor, "T B N P"]) -> Float[Tensor, "T B M P"]:
    """Draw M = N - E candidates from the Gaussian fitted to the E elites, clipped to [-1, 1]."""
    noise = noise[:, :, plan.elites.shape[2] :]
    return (plan.tokens.unsqueeze(2) + plan.std.unsqueeze(2) * noise).clamp(-1, 1)


def refine(
    search: Search,
    root: Float[Tensor, "B S"],
    kept: Float[Tensor, "T B K P"],
    kept_returns: Float[Tensor, "B K"],
    fresh: Float[Tensor, "T B M P"],
    mode: Float[Tensor, "T B 1 P"],
    config: PlannerConfig,
) -> Plan:
    """Score the `fresh` plans, then fit elites to them and to those `kept`. `anchor`: penalises distance to `mode`."""
    tokens, returns = rollout(search, root, fresh)
    candidates, returns = torch.cat([kept, tokens], 2), torch.cat([kept_returns, returns], 1)
    penalty = config.anchor * (candidates - mode).square().sum((0, 3)) if config.anchor else None
    return fit(candidates, returns, root, config, penalty)


def rollout(
    search: Search, root: Float[Tensor, "B S"], plans: Float[Tensor, "T B N P"]
) -> tuple[Float[Tensor, "T B N P"], Float[Tensor, "B N"]]:
    """Return the plans as executed, and their returns: discounted rewards plus the value at their end."""
    horizon, size, count, _ = plans.shape
    state = root.repeat_interleave(count, 0)
    total, factor, tokens = torch.zeros(len(state), device=root.device), torch.ones(len(state), device=root.device), []
    for t in range(horizon):
        token, state, reward, continues = search.step(state, plans[t].flatten(0, 1))
        tokens.append(token.view(size, count, -1))
        total = total + factor * reward
        factor = factor * search.discount * continues
    total = total + factor * search.value(state)
    return torch.stack(tokens), total.view(size, count)


def fit(
    candidates: Float[Tensor, "T B N P"],
    returns: Float[Tensor, "B N"],
    root: Float[Tensor, "B S"],
    config: PlannerConfig,
    penalty: Float[Tensor, "B N"] | None = None,
) -> Plan:
    """Select the elites among N >= E candidates, and fit a weighted mean and standard deviation to them.

    A candidate's score is its return less `penalty`. If that is not finite, it is ranked last and has no influence,
    even if its own entries are not finite. Weights: exp(score / unit), as in MPPI (Williams et al. 2017, arXiv
    1707.02342), over elites as in TD-MPC2; `unit` is `temperature` times the standard deviation of the elites' scores,
    rounded up to about `return_scale_floor`.
    """
    scores = returns if penalty is None else returns - penalty
    best, index = torch.where(torch.isfinite(scores), scores, -torch.inf).topk(config.elites, -1)
    finite = torch.isfinite(best)
    returns = torch.where(finite, returns.gather(1, index), -torch.inf)
    index = index[None, :, :, None].expand(len(candidates), -1, -1, candidates.shape[-1])
    elites = candidates.gather(2, index)
    # Replace these plans: a weight of 0 does not suffice, since 0 * nan is nan.
    elites = torch.where(finite[None, :, :, None], elites, elites[:, :, :1])
    known = torch.where(finite, best, torch.nan)
    deviation = (known - known.nanmean(-1, keepdim=True)).square().nanmean(-1, keepdim=True).sqrt()
    unit = config.temperature * (deviation.square() + config.return_scale_floor**2).sqrt()
    weights = torch.softmax((best - best[:, :1]) / unit, -1)  # nan if none is finite, which `mppi` reports
    mean = torch.einsum("be,tbep->tbp", weights, elites)
    deviations = weights.sqrt()[None, :, :, None] * (elites - mean.unsqueeze(2))
    std = deviations.square().sum(2).sqrt().clamp(config.min_std, config.std)
    return Plan(mean, std, returns, weights, elites, root, scores=scores)


PASSES = 4
"""What clipping takes from a reading is made up for, so many times, by the numbers that are not at a bound."""


class Pins(NamedTuple):
    """M readings of the plans of B searches: the sum of rows * plan is `value`, with a standard `deviation` above 0."""

    rows: Float[Tensor, "B M T P"]
    value: Float[Tensor, "B M"]
    deviation: Float[Tensor, "B M"]


def condition(
    candidates: Float[Tensor, "T B N P"], std: Float[Tensor, "T B P"], pins: Pins, generator: torch.Generator
) -> Float[Tensor, "T B N P"]:
    """Condition candidates, drawn with deviations `std` and clipped to [-1, 1]; `generator`: of the readings' noise."""
    w = candidates.movedim(0, 2).flatten(2).double()
    rows, value, spread = (each.to(w).unsqueeze(1) for each in (pins.rows.flatten(2), *pins[1:]))
    off = torch.randn(*w.shape[:2], spread.shape[-1], generator=generator).to(w)
    unit, own = std.movedim(0, 1).flatten(1).to(w).unsqueeze(1).expand_as(w), torch.diag_embed(spread.expand_as(off))
    for _ in range(PASSES):
        seen = torch.cat([rows * unit.unsqueeze(2), own], -1)  # by w and by the noise
        gap = value - (rows * w.unsqueeze(2)).sum(-1) - spread * off
        move = (seen.mT @ torch.cholesky_solve(gap.unsqueeze(-1), torch.linalg.cholesky(seen @ seen.mT))).squeeze(-1)
        w, off = (w + unit * move[..., : w.shape[-1]]).clamp(-1, 1), off + move[..., w.shape[-1] :]
        unit = torch.where(w.abs() < 1, unit, 0.0)
    return w.to(candidates.dtype).unflatten(2, (len(candidates), -1)).movedim(2, 0)
