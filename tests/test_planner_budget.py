"""Laws of the adaptive budget: between no search and all of it, latent by latent, and counted as it is spent."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.arithmetic import gflop, plan_gflop
from worldmodel.elites import fit_elites, relative_spread
from worldmodel.observation import Observation
from worldmodel.planner import Memory, Planner
from worldmodel.senses import STATE_KEY
from worldmodel.settings import PlannerConfig

ADAPTIVE = PlannerConfig(
    samples=32, policy_samples=8, elites=8, iterations=3, horizon=2, budget="adaptive", agreement=0.0
)
FIXED = dataclasses.replace(ADAPTIVE, budget="fixed")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def seen(count, seed=0):
    return Observation.of({STATE_KEY: (3,)}, {STATE_KEY: torch.randn(count, 3, generator=seeded(seed))})


@pytest.fixture
def model(toys):
    """A small world whose heads say something."""
    return toys.tiny_model()


@pytest.fixture
def steps(model, monkeypatch):
    """How many rows go through the model's trunk, which every imagined step does once."""
    rows, transition_features = [], model.transition_features

    def counting(z, w):
        rows.append(len(z))
        return transition_features(z, w)

    monkeypatch.setattr(model, "transition_features", counting)
    return rows


def test_what_is_spent_is_counted(model, steps):
    for config in (FIXED, ADAPTIVE, dataclasses.replace(ADAPTIVE, agreement=1e9)):
        steps.clear()
        plan = Planner(model, 0.9, config).plan(seen(1), None, seeded())
        assert int(plan.imagined[0]) == sum(steps)


def test_who_never_agrees_does_everything(model):
    """Then the same candidates are scored as with the fixed budget, in two lots."""
    fixed = Planner(model, 0.9, dataclasses.replace(FIXED, iterations=1)).plan(seen(3), None, seeded())
    whole = Planner(model, 0.9, dataclasses.replace(ADAPTIVE, iterations=1)).plan(seen(3), None, seeded())
    assert (whole.spent, fixed.spent) == (2, 1)
    assert torch.equal(whole.imagined, fixed.imagined)
    assert torch.allclose(whole.returns, fixed.returns, atol=1e-5)
    assert torch.allclose(whole.tokens, fixed.tokens, atol=1e-5)
    assert Planner(model, 0.9, ADAPTIVE).plan(seen(3), None, seeded()).spent == ADAPTIVE.iterations + 1


def test_who_agrees_at_once_searches_nothing(model):
    memory = Memory.of(torch.rand(2, 3, 2, generator=seeded(1)))
    config = dataclasses.replace(ADAPTIVE, agreement=1e9)
    plan = Planner(model, 0.9, config).plan(seen(3), memory, seeded())
    assert plan.spent == 1
    own = config.policy_samples
    assert (plan.imagined == own * (config.horizon - 1) + (own + 1) * config.horizon).all()


def test_fewer_candidates_than_elites_are_all_that_count(model):
    """The first lot may be smaller than the elites that are asked for."""
    config = dataclasses.replace(ADAPTIVE, policy_samples=2, agreement=1e9)
    plan = Planner(model, 0.9, config).plan(seen(3), None, seeded())
    assert plan.returns.shape == (3, config.elites)
    assert (torch.isfinite(plan.returns).sum(1) == 3).all()
    assert torch.allclose(plan.weights.sum(1), torch.ones(3))
    assert (plan.weights[:, 3:] == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_each_latent_spends_for_itself(model, monkeypatch, seed):
    """In a batch, whoever agrees keeps the plan that it would have had alone."""
    count = 6
    draws = torch.randn(ADAPTIVE.iterations, ADAPTIVE.horizon, count, ADAPTIVE.samples, 2, generator=seeded(seed))

    def plan(config, b, e):
        monkeypatch.setattr(torch, "randn", lambda *shape, generator: draws[:, :, b:e].clone())
        return Planner(model, 0.9, config).plan({STATE_KEY: observation[STATE_KEY][b:e]}, None, seeded())

    observation = seen(count, seed)
    first = plan(dataclasses.replace(ADAPTIVE, agreement=1e9), 0, count)
    median = relative_spread(first.returns, ADAPTIVE.indifference).quantile(0.5)
    config = dataclasses.replace(ADAPTIVE, agreement=float(median))
    together = plan(config, 0, count)
    assert len(set(together.imagined.tolist())) > 1
    for b in range(count):
        alone = plan(config, b, b + 1)
        assert torch.equal(alone.imagined, together.imagined[b : b + 1])
        assert torch.allclose(alone.tokens, together.tokens[:, b : b + 1], atol=1e-4)
        assert torch.allclose(alone.returns, together.returns[b : b + 1], atol=1e-4)


@given(st.integers(0, 99), st.floats(0.1, 100), st.integers(1, 7))
def test_the_relative_spread_has_no_unit_and_ignores_what_is_not_finite(seed, unit, lost):
    returns = torch.randn(4, 8, generator=seeded(seed)) + 5
    assert torch.allclose(relative_spread(unit * returns, unit * 0.1), relative_spread(returns, 0.1), rtol=1e-3)
    assert torch.allclose(relative_spread(torch.full((1, 8), unit), 0.1), torch.zeros(1), atol=1e-6)
    some = returns.clone()
    some[:, lost:] = -torch.inf
    assert torch.allclose(relative_spread(some, 0.1), relative_spread(returns[:, :lost], 0.1), rtol=1e-4)


def test_without_a_finite_candidate_the_relative_spread_is_infinite():
    assert relative_spread(torch.full((1, 4), -torch.inf), 0.1) == torch.inf


def test_a_budget_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"^planner\.budget=some: fixed or adaptive$"):
        PlannerConfig(budget="some")


def test_the_arithmetic_of_a_plan_goes_by_what_it_imagined(model):
    """To a thousandth for all of the budget; nearly for a part, since a proposal costs less than a scored step."""
    whole = plan_gflop(model, 0.9, ADAPTIVE)
    for agreement, tolerance in ((0.0, 0.001), (1e9, 0.2)):
        planner = Planner(model, 0.9, dataclasses.replace(ADAPTIVE, agreement=agreement))
        plans = []
        spent = gflop(lambda planner=planner, plans=plans: plans.append(planner.plan(seen(1), None, seeded())))
        said = plan_gflop(model, 0.9, planner.config, float(plans[0].imagined[0]))
        assert said == pytest.approx(spent, rel=tolerance)
        assert said <= whole * (1 + 1e-9)


def test_a_candidate_that_is_not_finite_counts_for_nothing_whatever_its_numbers():
    """Its weight is 0, but 0 times what is not a number is none."""
    candidates, returns = torch.randn(3, 1, 8, 2, generator=seeded()), torch.randn(1, 8, generator=seeded(1))
    returns[0, 3:] = torch.tensor([torch.nan, torch.inf, -torch.inf, torch.nan, torch.nan])
    config = dataclasses.replace(ADAPTIVE, elites=5)
    plain = fit_elites(candidates, returns, config)
    candidates[:, :, 3:] = torch.nan
    odd = fit_elites(candidates, returns, config)
    assert torch.isfinite(odd.plans).all()
    assert torch.equal(odd.mean, plain.mean)
    assert torch.equal(odd.spread, plain.spread)
