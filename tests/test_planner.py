"""Laws of the planner: what a plan is, in closed form; bounds, faults, deadlines; and that it finds what it seeks."""

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from worldmodel import planner as planning
from worldmodel.flops import gflop, plan_gflop, update_gflop
from worldmodel.learner import Learner
from worldmodel.mppi import PlanFault, Search, Step, WarmStart, fit, initial_candidates, mppi, resample, rollout
from worldmodel.observation import Observation
from worldmodel.planner import Planner, search_in
from worldmodel.senses import STATE_KEY
from worldmodel.settings import LearningConfig, PlannerConfig

CONFIG = PlannerConfig(samples=32, policy_samples=8, elites=8, iterations=3, horizon=2)
BEST = torch.tensor([0.4, -0.3])


def bowl(hole=None, mode=0.0):
    """A state is a place (2,), a token moves it by half of itself and earns minus the squared distance to BEST / 2.

    `hole` makes the rewards of some tokens NaN. The policy stays, or does `mode`.
    """

    def reward(place):
        return -(place - 0.5 * BEST).square().sum(-1)

    def step(place, w):
        earned = reward(place + 0.5 * w)
        earned = torch.where(hole(w), torch.nan, earned) if hole else earned
        return Step(w, place + 0.5 * w, earned, torch.ones(len(w)))

    return Search(lambda root, noise: torch.tanh(mode + 0.4 * noise), step, reward, 0.9)


def seeded(seed=0):
    """A seeded generator."""
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    """Standard normal numbers."""
    return torch.randn(*shape, generator=seeded(seed))


def search(model, config=CONFIG, count=1, warm=None, seed=0, **given):
    """Plan from the origin."""
    noise = normal(config.iterations, config.horizon, count, config.samples, 2, seed=seed)
    return mppi(model, torch.zeros(count, 2), warm, noise, config, **given)


def seen(count, seed=0):
    """Random observations."""
    return Observation.of({STATE_KEY: (3,)}, {STATE_KEY: normal(count, 3, seed=seed)})


def same(one, other, **tolerance):
    """Whether two plans are the same, to the bit unless a tolerance is given."""
    for name in ("tokens", "std", "returns", "weights", "elites"):
        a, b = getattr(one, name), getattr(other, name)
        if not (torch.allclose(a, b, **tolerance) if tolerance else torch.equal(a, b)):
            return False
    return one.iterations == other.iterations


# What a return, a candidate and a plan are, written out in double precision.


def test_a_return_is_the_discounted_sum_of_rewards_and_the_value_at_the_end():
    """Each further term is worth the discount times the probabilities to continue after all tokens before it."""
    going = lambda s: torch.sigmoid(s[:, 0])  # noqa: E731
    step = lambda s, w: Step(w.clamp(-0.5, 0.5), s + w, s.sum(-1) + w[:, 1], going(s))  # noqa: E731
    model = Search(lambda root, noise: noise, step, lambda s: 10 + s[:, 1], 0.7)
    root, plans = normal(2, 2, seed=1), normal(3, 2, 4, 2)
    tokens, returns = rollout(model, root, plans)
    assert torch.equal(tokens, plans.clamp(-0.5, 0.5))  # as executed
    for b, n in itertools.product(range(2), range(4)):
        s, want, factor = root[b].double().numpy(), 0.0, 1.0
        for w in plans[:, b, n].double().numpy():
            want += factor * (s.sum() + w[1])
            factor *= 0.7 / (1 + np.exp(-s[0]))
            s = s + w
        assert float(returns[b, n]) == pytest.approx(want + factor * (10 + s[1]), rel=1e-5)


@pytest.mark.parametrize(("temperature", "unit", "indifference"), [(0.3, 1.0, 0.1), (2.0, 0.01, 5.0)])
def test_a_plan_is_the_mean_of_its_elites_by_the_exponential_of_their_returns(temperature, unit, indifference):
    widths = {"min_std": 0.3, "std": 0.9, "return_scale_floor": indifference}
    config = dataclasses.replace(CONFIG, elites=5, temperature=temperature, **widths)
    candidates, returns = normal(2, 3, 12, 2), unit * normal(3, 12, seed=1)
    plan = fit(candidates, returns, torch.zeros(3, 0), config)
    for b in range(3):
        r = returns[b].double().numpy()
        top = np.argsort(-r)[:5]
        chosen, w = candidates[:, b, top].double().numpy(), r[top] / temperature
        w = np.exp((w - w.max()) / np.sqrt(r[top].var() + indifference**2))
        w /= w.sum()
        mean = np.einsum("e,tep->tp", w, chosen)
        deviation = np.sqrt(np.einsum("e,tep->tp", w, (chosen - mean[:, None]) ** 2)).clip(0.3, 0.9)
        np.testing.assert_allclose(plan.returns[b], r[top], rtol=1e-6)
        np.testing.assert_array_equal(plan.elites[:, b], candidates[:, b, top])
        for found, want in ((plan.weights[b], w), (plan.tokens[:, b], mean), (plan.std[:, b], deviation)):
            np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)
        assert float(plan.expected_return[b]) == pytest.approx(w @ r[top], rel=1e-4)
        assert (plan.std == 0.3).any() or (plan.std > 0.3).all()


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_the_first_candidates_are_the_policys_the_last_plan_and_noise_around_both(fraction):
    config = dataclasses.replace(CONFIG, samples=12, policy_samples=5, elites=4, warm_start_fraction=fraction, std=0.8)
    model, noise, last = bowl(mode=0.3), normal(2, 3, 12, 2), normal(2, 3, 2, seed=1).clamp(-1, 1)
    root, warm = torch.zeros(3, 2), int(fraction * 7)
    found = initial_candidates(model, root, WarmStart(last, torch.tensor([True, True, False])), noise, config)
    assert torch.equal(found[:, :, 0], model.propose(root, torch.zeros(2, 3, 1, 2))[:, :, 0])
    assert torch.equal(found[:, :, 1:5], model.propose(root, noise)[:, :, 1:5])
    mode = found[:, :, :1]
    assert torch.equal(found[:, :, 5 : 12 - warm], (mode + 0.8 * noise[:, :, 5 : 12 - warm]).clamp(-1, 1))
    for b in range(3):
        centre = last[:, b : b + 1] if b < 2 else mode[:, b]  # the third one's last plan is not valid
        around = (centre + 0.8 * noise[:, b, 12 - warm : 11]).clamp(-1, 1)
        assert torch.equal(found[:, b, 12 - warm : 11], around[:, : max(warm - 1, 0)])
        assert not warm or torch.equal(found[:, b, 11], centre[:, 0])
    cold = initial_candidates(model, root, None, noise, config)
    assert torch.equal(cold[:, 2], found[:, 2])


def test_each_environment_has_its_own_warm_start():
    one, other = WarmStart.of(normal(2, 3, 2)), WarmStart(normal(2, 3, 2, seed=1), torch.tensor([True, False, False]))
    chosen = torch.tensor([False, False, True])
    mixed, alone = one.where(chosen, other), one.where(chosen, None)
    assert torch.equal(mixed.mean, torch.cat([other.mean[:, :2], one.mean[:, 2:]], 1))
    assert (mixed.valid.tolist(), alone.valid.tolist()) == ([True, False, True], [False, False, True])
    assert torch.equal(alone.mean, one.mean)


def test_later_candidates_are_drawn_from_the_gaussian_of_the_elites():
    plan = search(bowl(), dataclasses.replace(CONFIG, iterations=1), 2)
    noise = normal(2, 2, 32, 2, seed=3)
    drawn = resample(plan, noise)
    assert drawn.shape == (2, 2, 24, 2)  # the elites stay candidates themselves
    want = plan.tokens.unsqueeze(2) + plan.std.unsqueeze(2) * noise[:, :, 8:]
    assert torch.equal(drawn, want.clamp(-1, 1)) and not torch.equal(drawn, want)
    more = search(bowl(), dataclasses.replace(CONFIG, iterations=2), 2)
    pool = torch.cat([plan.elites, resample(plan, normal(2, 2, 2, 32, 2)[1])], 2)
    refitted = fit(pool, rollout(bowl(), torch.zeros(2, 2), pool)[1], torch.zeros(2, 2), CONFIG)
    assert same(more, dataclasses.replace(refitted, iterations=2), atol=1e-6)


def test_an_anchor_ranks_and_weighs_by_the_squared_distance_to_the_policys_plan_and_promises_the_return_itself():
    model, distance = bowl(mode=0.1), []
    home = model.propose(torch.zeros(1, 2), torch.zeros(2, 1, 1, 2))
    for anchor in (0.0, 0.1, 1.0, 100.0):
        config = dataclasses.replace(CONFIG, samples=256, anchor=anchor, min_std=0.001)
        plan = search(model, config)
        away = (plan.elites - home).square().sum((0, 3))
        returns = rollout(model, torch.zeros(1, 2), plan.elites)[1]
        torch.testing.assert_close(plan.returns, returns)
        score = (returns - anchor * away).double()
        unit = config.temperature * (score.var(-1, correction=0) + config.return_scale_floor**2).sqrt()
        torch.testing.assert_close(plan.weights.double(), (score / unit).softmax(-1), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(plan.expected_return, (plan.weights * returns).sum(-1))
        distance.append(float((plan.tokens - home[:, :, 0]).norm()))
    assert distance == sorted(distance, reverse=True)
    assert distance[0] > 0.3 and distance[-1] < 0.02


# What the search achieves, and what never happens.


def test_it_finds_what_the_policy_alone_does_not_and_comes_nearer_with_each_iteration():
    errors = []
    for iterations in (1, 2, 4, 6):
        config = PlannerConfig(samples=64, policy_samples=4, elites=8, iterations=iterations, horizon=1)
        errors.append(float((search(bowl(), config, 40).tokens[0] - BEST).norm(dim=-1).mean()))
    assert errors[0] > errors[1] > errors[2] and errors[3] < 0.06 < 0.1 * float(BEST.norm()) + 0.02


@pytest.mark.parametrize("mode", [0.0, 10.0, -10.0])
def test_tokens_and_deviations_are_bounded(mode):
    config = dataclasses.replace(CONFIG, std=3.0)
    plan = search(bowl(mode=mode), config, 5)
    assert plan.elites.abs().max() <= 1
    assert plan.tokens.abs().max() <= 1 + 1e-6
    assert ((plan.std >= config.min_std) & (plan.std <= config.std)).all()
    assert torch.allclose(plan.weights.sum(-1), torch.ones(5))
    assert (plan.returns.diff() <= 0).all() and (plan.weights.diff() <= 1e-6).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_candidate_that_is_not_finite_counts_for_nothing_whatever_its_numbers(bad):
    """Its weight is 0, but 0 times NaN is NaN; nor does it widen the returns' deviation or the expected return."""
    candidates, returns = normal(3, 1, 8, 2), normal(1, 8, seed=1)
    config = dataclasses.replace(CONFIG, elites=3)
    alone = fit(candidates[:, :, :3], returns[:, :3], torch.zeros(1, 0), config)
    candidates[:, :, 3:], returns[:, 3:] = torch.nan, bad
    plan = fit(candidates, returns, torch.zeros(1, 0), dataclasses.replace(config, elites=5))
    assert plan.elites.isfinite().all() and (plan.weights[:, 3:] == 0).all()
    for name in ("tokens", "std", "expected_return"):
        torch.testing.assert_close(getattr(plan, name), getattr(alone, name))


def test_no_finite_candidate_is_a_fault_whether_of_an_observation_or_a_weight(model):
    with pytest.raises(PlanFault, match="not finite"):
        search(bowl(lambda w: w[..., 0] < 9), count=3)
    observation = seen(3)
    observation.values[STATE_KEY][1, 0] = torch.nan
    with pytest.raises(PlanFault):
        Planner(model, 0.9, CONFIG).plan(observation, None, seeded())
    model.trunk[0].weight.data[0, 0] = torch.nan
    with pytest.raises(PlanFault):
        Planner(model, 0.9, CONFIG).plan(seen(1), None, seeded())


@pytest.mark.parametrize(("allowed", "done"), [(0, 1), (1, 2), (4, 5), (9, 6)])
def test_no_iteration_begins_late_and_one_is_always_done(allowed, done):
    """What is returned is the plan of the iterations done; `late` holds once it was asked `allowed` times."""
    config, asked = dataclasses.replace(CONFIG, iterations=6), itertools.count()
    plan = search(bowl(), config, late=lambda: next(asked) >= allowed)
    assert plan.iterations == done
    noise = normal(6, 2, 1, 32, 2)
    best = [mppi(bowl(), torch.zeros(1, 2), None, noise[:n], config) for n in range(1, done + 1)]
    assert same(plan, best[-1])
    assert all(a.returns[0, 0] <= b.returns[0, 0] for a, b in itertools.pairwise(best))  # longer is never worse


def test_a_batch_is_planned_as_each_alone():
    noise, root = normal(3, 2, 4, 32, 2), normal(4, 2, seed=2)
    warm = WarmStart(normal(2, 4, 2, seed=1).clamp(-1, 1), torch.tensor([True, False, True, False]))
    whole = mppi(bowl(), root, warm, noise, CONFIG)
    for b in range(4):
        at = slice(b, b + 1)
        alone = mppi(bowl(), root[at], WarmStart(warm.mean[:, at], warm.valid[at]), noise[:, :, at], CONFIG)
        assert torch.allclose(alone.tokens[:, 0], whole.tokens[:, b], atol=1e-5)
        assert torch.allclose(alone.std[:, 0], whole.std[:, b], atol=1e-5)
        assert torch.allclose(alone.returns[0], whole.returns[b], atol=1e-5)


# The world model as the search knows it, and the planner around it.


def test_the_model_proposes_steps_and_values_as_itself(model):
    known, z = search_in(model, 0.8), model.encode(seen(3)).detach()
    plans = known.propose(z, torch.zeros(2, 3, 1, 2))[:, :, 0]
    assert torch.allclose(plans[0], model.greedy_token(z)[0])
    assert torch.allclose(plans[1], model.greedy_token(model.step(z, plans[0])[0])[0], atol=1e-6)
    noise = normal(1, 3, 4, 2)
    for n in range(4):
        assert torch.allclose(known.propose(z, noise)[0, :, n], model.policy(z).sample(noise[0, :, n])[0], atol=1e-6)
    step = known.step(z, plans[1])
    assert all(map(torch.equal, step, (plans[1], *model.step(z, plans[1]))))
    assert known.discount == 0.8
    heads = model.value(z, model.policy(z).mode).double().softmax(-1)
    place = (heads * torch.linspace(-10, 10, heads.shape[-1], dtype=torch.float64)).sum(-1)
    assert torch.allclose(known.value(z).double(), (place.sign() * (place.abs().exp() - 1)).mean(0), rtol=1e-4)
    _, reward, keep = Planner(model, 0.8, CONFIG).imagine(z, plans[1])
    assert torch.equal(reward, step.reward) and torch.allclose(keep, 0.8 * step.continues)
    reward, worth = Planner(model, 0.8, CONFIG).worth(z, plans[1])
    assert torch.equal(reward, step.reward) and torch.allclose(worth, reward + keep * known.value(step.state))


def test_model_calls_are_the_rows_that_go_through_the_model(model, monkeypatch):
    rows, features = [], model.transition_features
    monkeypatch.setattr(model, "transition_features", lambda z, w: rows.append(len(z)) or features(z, w))
    for iterations in (1, 2, 4):
        rows.clear()
        plan = Planner(model, 0.9, dataclasses.replace(CONFIG, iterations=iterations)).plan(seen(2), None, seeded())
        assert plan.model_calls * 2 == sum(rows)


def test_the_same_generator_state_gives_the_same_plan_and_leaves_no_gradient(model):
    planner = Planner(model, 0.9, CONFIG)
    one, again, other = (planner.plan(seen(2), None, seeded(s)) for s in (0, 0, 1))
    assert same(one, again)
    assert not same(one, other)
    assert not one.tokens.requires_grad and all(p.grad is None for p in model.parameters())
    assert torch.equal(one.latent, model.encode(seen(2)))


@pytest.mark.parametrize(("std", "searched"), [(0.5, 1.0), (3.0, 3.0)])
def test_a_wide_search_covers_the_whole_range(model, std, searched):
    one, other = (Planner(model, 0.9, dataclasses.replace(CONFIG, std=each)) for each in (std, searched))
    assert same(one.plan(seen(2), None, seeded(), wide=True), other.plan(seen(2), None, seeded()))
    assert same(one.plan(seen(2), None, seeded()), other.plan(seen(2), None, seeded())) == (std == searched)


@pytest.mark.parametrize(("given", "done"), [(None, 3), (100.5, 1), (101.0, 1), (101.5, 2), (0.0, 1), (1e9, 6)])
def test_a_deadline_is_that_given_or_counts_from_the_call(model, monkeypatch, given, done):
    """Each iteration takes a second of a clock that begins at 100; the settings give a little over two."""
    planner = Planner(model, 0.9, dataclasses.replace(CONFIG, iterations=6, deadline_ms=2000.5))
    ticks, value = itertools.count(100), planner.search.value
    now = [next(ticks)]
    monkeypatch.setattr(planning.time, "perf_counter", lambda: float(now[0]))
    valued = lambda state: now.__setitem__(0, next(ticks)) or value(state)  # noqa: E731  once an iteration
    planner.search = dataclasses.replace(planner.search, value=valued)
    assert planner.plan(seen(1), None, seeded(), given).iterations == done


def test_arithmetic_is_counted_by_hand(model, generator):
    a, b = torch.randn(10, 20, generator=generator), torch.randn(20, 30, generator=generator)
    assert gflop(lambda: a @ b) == pytest.approx(2 * 10 * 20 * 30 / 1e9)
    one, two, four = (plan_gflop(model, 0.9, dataclasses.replace(CONFIG, iterations=n)) for n in (1, 2, 4))
    assert 0 < one < two and four - two == pytest.approx(2 * (two - one))
    small, large = (update_gflop(Learner(model, 0.9, LearningConfig(batch_size=n))) for n in (8, 24))
    assert large == pytest.approx(3 * small)


COMPILED = """
import functools, runpy, sys, types, torch
torch.compile = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
toys = types.SimpleNamespace(**runpy.run_path(sys.argv[1]))
from worldmodel.planner import Planner
from worldmodel.learner import Learner
from worldmodel.settings import LearningConfig, PlannerConfig, TokenConfig
planned, learned = [], []
for compiled in (False, True):
    model = toys.tiny_model(3, 4, token=TokenConfig(2, 2, 1, joined=True))
    config = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=2, horizon=2)
    planner, data = Planner(model, 0.9, config, compiled), toys.batch(model, horizon=2)
    plan = planner.plan(data.seen.map(lambda x: x[0]), None, torch.Generator().manual_seed(1))
    planned.append(torch.cat([plan.tokens.flatten(), *planner.imagine(plan.latent, plan.tokens[0])[1:]]))
    learner = Learner(model, 0.9, LearningConfig(batch_size=6, horizon=2), compiled)
    learner.update(data, torch.Generator().manual_seed(2))
    learned.append(learner.flat.clone())
torch.testing.assert_close(*planned, atol=1e-4, rtol=0)
torch.testing.assert_close(*learned, atol=1e-4, rtol=0)
"""


@pytest.mark.slow
def test_traced_it_plans_and_learns_the_same():
    """Each part as one graph, forward and backward; the C++ that a compiler would then write is left out."""
    command = [sys.executable, "-c", COMPILED, Path(__file__).parent / "toys.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
