"""The planner: `mppi` on the world model, within a budget of iterations, of time, or both; and a check of its plans.

The check is by temporal differences: along the executed path a correct plan satisfies G = r + k G' (Bellman), where G
is its expected return, r the reward of the decision, k the discount times the probability that the episode continues,
and G' the next plan's expected return. So each decision must yield (1 - k) G, as reward or as an
increase of G. A search that exploits an error of the value function predicts the same return again and again and
realises none of it: the agent stalls. Rewards are those that the model imagines for the executed actions in the latents
reached, so that no reward of the environment is needed.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel import registry
from worldmodel.errors import UserError
from worldmodel.model import WorldModel
from worldmodel.mppi import Pins, Plan, PlanFault, Search, Step, WarmStart, condition, mppi, refine
from worldmodel.observation import Observation
from worldmodel.settings import PlannerConfig

Score = Callable[[Tensor, Tensor, Tensor], Tensor]
"""f(z (B, D), w (B, P), z' (B, D)) -> (B,): what a token is worth besides its reward, in the reward's unit."""


def search_in(model: WorldModel, discount: float, score: Score | None = None) -> Search:
    """Return the model as the search knows it; `discount` is over one whole token, `score` is added to each reward.

    The state (B, D + A) is a latent and where the previous token ended, from which a joined token continues; without
    joined tokens A is 0.
    """
    size = model.config.latent

    def propose(root: Float[Tensor, "B S"], noise: Float[Tensor, "T B N P"]) -> Float[Tensor, "T B N P"]:
        horizon, count, tokens = len(noise), noise.shape[2], []
        z, end = root.repeat_interleave(count, 0).split([size, model.shared], -1)
        for t in range(horizon):
            points, _ = model.policy(z).sample(noise[t].flatten(0, 1))
            w = model.token(points, end)
            tokens.append(w.view(len(root), count, -1))
            if t + 1 < horizon:
                z, end = model.next(model.transition_features(z, w)), model.ends(w)
        return torch.stack(tokens)

    def step(state: Float[Tensor, "B S"], points: Float[Tensor, "B P"]) -> Step:
        z, end = state.split([size, model.shared], -1)
        w = model.token(points, end)
        following, reward, continues = model.step(z, w)
        if score is not None:
            reward = reward + score(z, w, following)
        return Step(w, join(following, model.ends(w)), reward, continues)

    def value(state: Float[Tensor, "B S"]) -> Float[Tensor, " B"]:
        z, end = state.split([size, model.shared], -1)
        return model.greedy_token(z, end)[1]

    return Search(propose, step, value, discount)


def join(z: Float[Tensor, "B D"], end: Float[Tensor, "B A"]) -> Float[Tensor, "B S"]:
    """Return the state of a search from a latent and where the previous token ended."""
    return torch.cat([z, end], -1) if end.shape[-1] else z


class Planner:
    """Plans from B observations at once; each stage is compiled by itself."""

    def __init__(
        self,
        model: WorldModel,
        discount: float,
        config: PlannerConfig,
        compiled: bool = False,
        score: Score | None = None,
    ):
        """Wrap a model; `discount`: over a token; `compiled`: each stage; `score`: added to a token's reward."""
        self.model, self.discount, self.config, self.score = model, discount, config, score
        self.compiled = compiled
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self.algorithm = registry.find("planner", config.algorithm)
        search = search_in(model, discount, score)
        self.search = replace(search, propose=wrap(search.propose))
        self._encode, self._step, self._refine = wrap(model.encode), wrap(model.step), wrap(refine)

    def of(self, model: WorldModel, config: PlannerConfig) -> "Planner":
        """Return a planner like this for another model, by these settings."""
        return Planner(model, self.discount, config, self.compiled, self.score)

    @torch.no_grad()
    def imagine(
        self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Return the latent after one token, its imagined reward (with the score), and discount times continuation."""
        following, reward, continues = self._step(z, w)
        if self.score is not None:
            reward = reward + self.score(z, w, following)
        return following, reward, self.discount * continues

    @torch.no_grad()
    def worth(
        self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"]
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Return the imagined reward (with the score) of one token, and that plus the discounted value after it."""
        _, state, reward, continues = self.search.step(join(z, self.model.starts(w)), w)
        return reward, reward + self.discount * continues * self.search.value(state)

    @torch.no_grad()
    def plan(
        self,
        observation: Observation,
        warm_start: WarmStart | None,
        generator: torch.Generator,
        deadline: float | None = None,
        start: Float[Tensor, "B A"] | None = None,
        wide: bool = False,
        pins: Pins | None = None,
    ) -> Plan:
        """Plan from B observations, as for `WorldModel.preprocess`.

        `deadline` is a `time.perf_counter()` time after which no further iteration begins; by default `deadline_ms` of
        the settings from now, or none if that is 0. The first always runs; the best plan so far is returned at most one
        iteration after the deadline. `start`: where the previous curves end, from which joined tokens continue (0 by
        default). `wide`: search the whole range of actions, with a `std` of at least 1. `pins`: what plans are to
        fulfil. Raises PlanFault if some observation has no candidate with a finite return.
        """
        config = replace(self.config, std=max(1.0, self.config.std)) if wide else self.config
        if deadline is None and config.deadline_ms:
            deadline = time.perf_counter() + config.deadline_ms / 1000
        z = self._encode(self.model.preprocess(observation))
        shape = (config.iterations, config.horizon, len(z), config.samples, self.model.points)
        noise = torch.randn(shape, generator=generator).to(z.device)
        root = join(z, z.new_zeros(len(z), self.model.shared) if start is None else start.to(z.device))
        late = lambda: deadline is not None and time.perf_counter() >= deadline  # noqa: E731
        held = {} if pins is None else {"held": partial(condition, pins=pins, generator=generator)}
        if held and self.algorithm is not None:
            raise UserError(f"planner.algorithm={config.algorithm}: only mppi keeps to a via")
        if self.algorithm is not None:
            return replace(self._own(root, warm_start, noise, config, late), latent=z)
        return replace(mppi(self.search, root, warm_start, noise, config, late, self._refine, **held), latent=z)

    def _own(self, root: Tensor, warm_start: WarmStart | None, noise: Tensor, config: PlannerConfig, late) -> Plan:
        """Plan by a registered algorithm, count its model steps, check its plan. Raises UserError, PlanFault."""
        assert self.algorithm is not None
        calls = 0

        def step(state: Float[Tensor, "B S"], points: Float[Tensor, "B P"]) -> Step:
            nonlocal calls
            calls += len(state)
            return self.search.step(state, points)

        plan = self.algorithm(replace(self.search, step=step), root, warm_start, noise, config, late)
        count, size = len(root), self.model.points
        shapes = [getattr(getattr(plan, part, None), "shape", ()) for part in ("tokens", "std")]
        if not isinstance(plan, Plan) or shapes[0][1:] != (count, size) or shapes[1] != shapes[0]:
            found = (
                f"tokens {tuple(shapes[0])}, std {tuple(shapes[1])}" if isinstance(plan, Plan) else type(plan).__name__
            )
            wanted = f"a Plan of tokens (T, {count}, {size}) and their std of the same shape"
            raise UserError(f"planner.algorithm={config.algorithm}: {found}; {wanted}")
        if not bool(torch.isfinite(plan.tokens).all() and torch.isfinite(plan.std).all()):
            raise PlanFault(f"planner.algorithm={config.algorithm}: its plan is not finite")
        return replace(plan, model_calls=calls // count)


SHARE = 0.5
"""Fraction of the predicted yield that must be realised."""


class TDCheck:
    """Decides in which of B environments the policy should act instead of the plans.

    If an environment's plans realised less than SHARE of the predicted yield over the last `patience` control steps (an
    exponential window), the policy acts there for as many steps. If B changes, the check starts afresh.

    Rows of `state` (8, B): exponentially fading sums of (1 - k) G and of r; the fading mean of the expected returns
    before the last one; the last plan's expected return; k, r and the duration in control steps of the last decision
    (0: none yet); the control steps for which the policy still acts.
    """

    def __init__(self, patience: int, indifference: float):
        """`patience` is in control steps; `indifference` is a negligible return."""
        self.patience, self.indifference, self.state = patience, indifference, torch.zeros(8, 0)

    def failed(self, expected_return: Float[Tensor, " B"], due: Bool[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Return where, among the environments `due` for a decision, the policy should act; given the newest plans'."""
        if self.state.shape[1] != len(due):
            self.state = torch.zeros(8, len(due))
        predicted, realised, mean, last_return, discount, reward, steps, policy_steps = self.state
        fading, held = (1 - steps / self.patience).clamp(min=0), policy_steps > 0
        predicted = torch.where(held, 0, fading * predicted + (1 - discount) * last_return)
        realised = torch.where(held, 0, fading * realised + reward)
        mean = torch.where(held | (steps == 0), expected_return, fading * mean + (1 - fading) * last_return)
        policy_steps = (policy_steps - steps).clamp(min=0)

        missing = predicted - realised - (expected_return - mean).clamp(min=0)
        rate = (1 - discount) / steps
        window = rate * self.patience * (expected_return.abs() + self.indifference)  # predicted over `patience` steps
        failed = missing > (1 - SHARE) * window  # nothing is missing at a first decision, nor while the policy acts
        policy_steps = torch.where(failed, float(self.patience), policy_steps)
        new = [predicted, realised, mean, expected_return, discount, reward, steps, policy_steps]
        self.state = torch.where(due, torch.stack(new), self.state)
        return due & (policy_steps > 0)

    def record(
        self,
        reward: Float[Tensor, " B"],
        discount: Float[Tensor, " B"],
        steps: Float[Tensor, " B"],
        due: Bool[Tensor, " B"],
    ) -> None:
        """Record r, k and the control steps of what was decided in the environments that were `due`."""
        self.state[4:7] = torch.where(due, torch.stack([discount, reward, steps]), self.state[4:7])

    def reset(self, ended: Bool[Tensor, " B"]) -> None:
        """Forget the environments (B,) that ended."""
        if self.state.shape[1] == len(ended):
            self.state[:, ended] = 0
