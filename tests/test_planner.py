"""Laws of the planner: bounds, faults, deadlines, batches, memory, and that it finds what it searches for."""

import dataclasses
import subprocess
import sys
import types

import pytest
import torch

from worldmodel import planner as planning
from worldmodel.arithmetic import gflop, plan_gflop
from worldmodel.gaussian import SquashedGaussian
from worldmodel.imagination import propose, score
from worldmodel.model import Imagined, WorldModel
from worldmodel.observation import Observation
from worldmodel.planner import Memory, PlanFault, Planner
from worldmodel.senses import STATE_KEY
from worldmodel.settings import PlannerConfig

CONFIG = PlannerConfig(samples=32, policy_samples=8, elites=8, iterations=3, horizon=2, budget="fixed")
BEST = torch.tensor([0.4, -0.3])


class Bowl(WorldModel):
    """A world that can be checked by hand: a latent is a place (2,), a token moves it by half of itself.

    A token earns minus the squared distance to a goal that the token BEST reaches from the origin in one step, and so
    does every later one. The policy proposes to stay, its spread is e^-1. `hole` makes some tokens' rewards not finite.
    """

    CODE = None  # the maker of two-hot logits

    def __init__(self, config, hole=None, mode=0.0):
        super().__init__({STATE_KEY: (2,)}, 2, config)
        self.hole, self.mode = hole, mode

    def encode(self, seen):
        return seen.values[STATE_KEY]

    def policy(self, z):
        return SquashedGaussian(torch.full_like(z, self.mode), torch.full_like(z, -1.0))

    def transition_features(self, z, w):
        return torch.cat([z, w], -1)

    def next(self, feature):
        z, w = feature.chunk(2, -1)
        return z + 0.5 * w

    def outcome(self, feature):
        reward = -(self.next(feature) - 0.5 * BEST).square().sum(-1)
        if self.hole:
            reward = torch.where(self.hole(feature[..., 2:]), torch.nan, reward)
        logits = torch.where(reward.isnan().unsqueeze(-1), reward.unsqueeze(-1), Bowl.CODE(reward.nan_to_num(), 101))
        return torch.cat([logits, torch.full_like(logits[..., :1], 20.0)], -1)

    def step(self, z, w):
        feature = self.transition_features(z, w)
        outcome = self.outcome(feature)
        return Imagined(self.next(feature), outcome[..., :-1], outcome[..., -1])

    def value(self, z, w):
        return Bowl.CODE(-(z + 0.5 * w - 0.5 * BEST).square().sum(-1), 101).expand(2, -1, -1)


@pytest.fixture
def bowl(toys):
    """Makes Bowls."""
    Bowl.CODE = staticmethod(torch.enable_grad()(toys.two_hot_logits))
    return lambda *args, **kwargs: Bowl(toys.tiny_config(bins=101), *args, **kwargs)


def seeded(seed=0):
    """A seeded generator."""
    return torch.Generator().manual_seed(seed)


def origin(count=1):
    """Observations of the origin."""
    return Observation.of({STATE_KEY: (2,)}, {STATE_KEY: torch.zeros(count, 2)})


def seen(count, seed=0, size=3):
    """Random observations."""
    return Observation.of({STATE_KEY: (size,)}, {STATE_KEY: torch.randn(count, size, generator=seeded(seed))})


def same(one, other, **tolerance):
    """Whether two plans are the same, to the bit unless a tolerance is given."""
    for name in ("tokens", "spread", "returns", "weights", "elites"):
        a, b = getattr(one, name), getattr(other, name)
        if not (torch.allclose(a, b, **tolerance) if tolerance else torch.equal(a, b)):
            return False
    return one.spent == other.spent


def test_it_finds_what_the_policy_alone_does_not(bowl):
    model = bowl()
    config = PlannerConfig(samples=128, policy_samples=8, elites=16, iterations=6, horizon=1, budget="fixed")
    plan = Planner(model, 0.9, config).plan(origin(), None, seeded())
    assert (plan.tokens[0, 0] - BEST).abs().max() < 0.05
    sentences = torch.stack([plan.tokens, torch.zeros_like(plan.tokens)], 2)
    planned, alone = score(model, torch.zeros(1, 2), sentences, 0.9)[0]
    assert planned > alone + 0.05


def test_more_iterations_come_nearer(bowl):
    errors = []
    for iterations in (1, 2, 4):
        config = PlannerConfig(samples=64, policy_samples=4, elites=8, iterations=iterations, horizon=1, budget="fixed")
        plan = Planner(bowl(), 0.9, config).plan(origin(40), None, seeded())
        errors.append(float((plan.tokens[0] - BEST).norm(dim=-1).mean()))
    assert errors[0] > errors[1] > errors[2]


def test_an_anchor_holds_a_plan_to_the_policy(bowl):
    """The further the dearer: a sentence's return is less by its squared distance from the policy's own sentence."""
    model, distance = bowl(mode=0.1), []
    home = propose(model, torch.zeros(1, 2), torch.zeros(2, 1, 1, 2))
    for anchor in (0.0, 0.1, 1.0, 100.0):
        config = dataclasses.replace(CONFIG, samples=256, anchor=anchor, min_spread=0.001)
        plan = Planner(model, 0.9, config).plan(origin(), None, seeded())
        away = (plan.elites - home).square().sum((0, 3))
        returns = score(model, torch.zeros(1, 2), plan.elites, 0.9)
        torch.testing.assert_close(plan.returns, returns - anchor * away, rtol=0, atol=1e-4 * (1 + anchor))
        distance.append(float((plan.tokens - home[:, :, 0]).norm()))
    assert distance == sorted(distance, reverse=True)
    assert distance[0] > 0.3 and distance[-1] < 0.02


@pytest.mark.parametrize("together", [0.0, 0.4, 1.0])
def test_refitted_candidates_have_the_elites_covariance_as_far_as_they_are_drawn_together(bowl, together):
    """Over the whole sentence: its tokens are drawn with one another, where drawn alone no two numbers are."""
    config = dataclasses.replace(CONFIG, samples=20_000, iterations=2, spread=0.2, min_spread=0.01, together=together)
    planner, calls = Planner(bowl(), 0.9, config), []
    refine = planner._refine

    def noting(*args):
        calls.append((args[4], refine(*args)))
        return calls[-1][1]

    planner._refine = noting
    planner.plan(origin(), None, seeded())
    (_, (mean, spread, _, weights, elites, _)), (fresh, _) = calls
    off = (elites - mean.unsqueeze(2))[:, 0].movedim(0, 1).flatten(1).double()  # (E, T P)
    whole = together * off.mT @ torch.diag(weights[0].double()) @ off
    whole = whole + (1 - together) * torch.diag(spread[:, 0].flatten().double().square())
    found = torch.cov(fresh[:, 0].movedim(0, 1).flatten(1).double().mT)
    scale = whole.diagonal().sqrt()
    assert ((found - whole).abs() < 0.05 * scale.outer(scale)).all()
    joint = (whole / scale.outer(scale) - torch.eye(4)).abs().max()
    assert (joint > 0.2) == (together > 0)


def test_a_score_is_the_sum_written_out(bowl):
    g, horizon, discount = 0.9, 3, 0.9 / (1 + torch.exp(torch.tensor(-20.0)))
    model = bowl()
    tokens = torch.rand(horizon, 2, 4, 2, generator=seeded()) * 2 - 1
    z = torch.randn(2, 2, generator=seeded(1))
    got = score(model, z, tokens, g)

    def distance(place):
        return -(place - 0.5 * BEST).square().sum(-1)

    for b in range(2):
        for n in range(4):
            place, want = z[b], 0.0
            for t in range(horizon):
                place = place + 0.5 * tokens[t, b, n]
                want = want + discount**t * distance(place)
            want = want + discount**horizon * distance(place)  # the value where it ends: the policy stays
            assert float(got[b, n]) == pytest.approx(float(want), abs=1e-4)


def test_a_proposal_without_noise_is_the_policys_mode(model):
    z = model.encode(seen(3))
    sentence = propose(model, z, torch.zeros(2, 3, 1, 2))[:, :, 0]
    assert torch.allclose(sentence[0], model.greedy_token(z)[0])
    assert torch.allclose(sentence[1], model.greedy_token(model.step(z, sentence[0]).latent)[0], atol=1e-6)


@pytest.mark.parametrize("mode", [0.0, 10.0, -10.0])
def test_tokens_are_bounded(bowl, mode):
    config = dataclasses.replace(CONFIG, spread=3.0, budget="fixed")
    plan = Planner(bowl(mode=mode), 0.9, config).plan(origin(5), None, seeded())
    assert plan.elites.abs().max() <= 1
    assert plan.tokens.abs().max() <= 1 + 1e-6
    assert ((plan.spread >= config.min_spread) & (plan.spread <= config.spread)).all()
    assert torch.allclose(plan.weights.sum(-1), torch.ones(5))
    assert (plan.returns.diff() <= 0).all() and (plan.weights.diff() <= 1e-6).all()


def test_a_candidate_that_is_not_finite_never_leads(bowl):
    """Where the best tokens are, returns are NaN; the next best ones win, and no NaN counts as 0, the best of all."""
    hole = lambda w: w[..., 0] > 0.1  # noqa: E731
    model = bowl(hole)
    config = dataclasses.replace(CONFIG, samples=256, iterations=4)
    plan = Planner(model, 0.9, config).plan(origin(2), None, seeded())
    assert plan.returns.isfinite().all()
    assert plan.elites[..., 0].max() <= 0.1
    assert plan.tokens[..., 0].max() <= 0.1
    assert plan.tokens[0, :, 0].min() > -0.1  # as near to the hole as it may go


def test_fewer_finite_candidates_than_elites_are_the_only_ones_that_count(bowl):
    """All candidates but the policy's mode, where nothing is drawn, are not finite."""
    model = bowl(lambda w: (w != 0).any(-1))
    plan = Planner(model, 0.9, CONFIG).plan(origin(2), None, seeded())
    finite = plan.returns.isfinite()
    assert finite.any(-1).all() and not finite.all()
    assert (plan.weights[~finite] == 0).all()
    assert not plan.tokens.any()
    assert plan.spread.isfinite().all()


@pytest.mark.parametrize("count", [1, 3])
def test_no_finite_candidate_is_a_fault(bowl, count):
    with pytest.raises(PlanFault, match="not finite"):
        Planner(bowl(lambda w: w[..., 0] < 9), 0.9, CONFIG).plan(origin(count), None, seeded())


def test_one_observation_that_is_not_finite_is_a_fault(model):
    observation = seen(3)
    observation.values[STATE_KEY][1, 0] = torch.nan
    with pytest.raises(PlanFault):
        Planner(model, 0.9, CONFIG).plan(observation, None, seeded())


def test_a_weight_that_is_not_finite_is_a_fault(model):
    with torch.no_grad():
        model.trunk[0].weight[0, 0] = torch.nan
    with pytest.raises(PlanFault):
        Planner(model, 0.9, CONFIG).plan(seen(1), None, seeded())


@pytest.mark.parametrize(
    ("deadline", "spent"), [(-5.0, 1), (0.0, 1), (0.5, 1), (1.0, 1), (1.5, 2), (3.0, 3), (99.0, 6)]
)
def test_no_iteration_begins_after_the_deadline_and_one_is_always_done(model, monkeypatch, deadline, spent):
    config = dataclasses.replace(CONFIG, iterations=6)
    planner, now, observation = Planner(model, 0.9, config), [0.0], seen(1)
    monkeypatch.setattr(planning, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    refine = planner._refine

    def slow(*args):
        now[0] += 1.0
        return refine(*args)

    planner._refine = slow
    draws = torch.randn(6, 2, 1, 32, 2, generator=seeded())
    monkeypatch.setattr(torch, "randn", lambda *shape, generator: draws[: shape[0]].clone())
    plan = planner.plan(observation, None, seeded(), deadline)
    assert plan.spent == spent
    assert now[0] <= max(deadline, 0) + 1.0
    short = Planner(model, 0.9, dataclasses.replace(config, iterations=spent)).plan(observation, None, seeded())
    assert same(plan, short)  # what is returned is the plan of the iterations done


def test_the_settings_deadline_counts_from_the_call(model, monkeypatch):
    planner = Planner(model, 0.9, dataclasses.replace(CONFIG, iterations=6, deadline_ms=1500.0))
    now, refine = [100.0], planner._refine
    monkeypatch.setattr(planning, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def slow(*args):
        now[0] += 1.0
        return refine(*args)

    planner._refine = slow
    assert planner.plan(seen(1), None, seeded()).spent == 2


def test_a_plan_that_went_on_for_longer_is_no_worse(model, monkeypatch):
    """The noise held, the best sentence of n iterations is still there after n + 1."""
    draws, observation = torch.randn(5, 2, 3, 32, 2, generator=seeded()), seen(3)
    monkeypatch.setattr(torch, "randn", lambda *shape, generator: draws[: shape[0]].clone())
    best = torch.stack(
        [
            Planner(model, 0.9, dataclasses.replace(CONFIG, iterations=n))
            .plan(observation, None, seeded())
            .returns[:, 0]
            for n in range(1, 6)
        ]
    )
    assert (best.diff(dim=0) >= -1e-6).all()
    assert (best[-1] > best[0]).any()


def test_a_batch_is_planned_as_each_alone(model, monkeypatch):
    """With the noise held, so that no plan can lean on its neighbours."""
    draws = torch.randn(3, 2, 4, 32, 2, generator=seeded())
    memory = Memory(torch.rand(2, 4, 2, generator=seeded(1)) - 0.5, torch.tensor([True, False, True, False]))
    planner, observation = Planner(model, 0.9, CONFIG), seen(4)
    monkeypatch.setattr(torch, "randn", lambda *shape, generator: draws.clone())
    together = planner.plan(observation, memory, seeded())
    for b in range(4):
        monkeypatch.setattr(torch, "randn", lambda *shape, generator, b=b: draws[:, :, b : b + 1].clone())
        own = Memory(memory.mean[:, b : b + 1], memory.valid[b : b + 1])
        alone = planner.plan(observation.map(lambda x, b=b: x[b : b + 1]), own, seeded())
        assert torch.allclose(alone.tokens[:, 0], together.tokens[:, b], atol=1e-4)
        assert torch.allclose(alone.spread[:, 0], together.spread[:, b], atol=1e-4)
        assert torch.allclose(alone.returns[0], together.returns[b], atol=1e-4)


def test_the_same_generator_state_gives_the_same_plan(model):
    planner = Planner(model, 0.9, CONFIG)
    one, again, other = (planner.plan(seen(2), None, seeded(s)) for s in (0, 0, 1))
    assert same(one, again)
    assert not same(one, other)


def test_a_memory_that_no_longer_applies_is_ignored(model):
    planner = Planner(model, 0.9, CONFIG)
    stale = Memory(torch.rand(2, 3, 2, generator=seeded(1)), torch.zeros(3, dtype=torch.bool))
    assert same(planner.plan(seen(3), stale, seeded()), planner.plan(seen(3), None, seeded()))


def test_a_good_memory_is_kept_as_it_is(bowl):
    """One iteration of few and wild samples around a policy far off: nothing is as good as the plan remembered."""
    config = PlannerConfig(samples=8, policy_samples=2, elites=1, iterations=1, horizon=2, spread=3.0, budget="fixed")
    planner = Planner(bowl(mode=-2.0), 0.9, config)
    best = torch.stack([BEST, torch.zeros(2)])[:, None]
    for seed in range(5):
        plan = planner.plan(origin(), Memory(best, torch.tensor([True])), seeded(seed))
        assert torch.equal(plan.elites[:, 0, 0], best[:, 0])
        assert not torch.equal(planner.plan(origin(), None, seeded(seed)).elites[:, 0, 0], best[:, 0])


def test_memories_mix_by_environment():
    one = Memory(torch.zeros(2, 3, 1), torch.tensor([True, True, True]))
    other = Memory(torch.ones(2, 3, 1), torch.tensor([True, False, False]))
    mixed = one.where(torch.tensor([False, True, False]), other)
    assert mixed.mean[0, :, 0].tolist() == [1, 0, 1]
    assert mixed.valid.tolist() == [True, True, False]
    assert one.where(torch.tensor([False, True, False]), None).valid.tolist() == [False, True, False]


def test_planning_leaves_no_gradient_behind(model):
    plan = Planner(model, 0.9, CONFIG).plan(seen(1), None, seeded())
    assert not plan.tokens.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_arithmetic_is_counted_by_hand(generator):
    a, b = torch.randn(10, 20, generator=generator), torch.randn(20, 30, generator=generator)
    assert gflop(lambda: a @ b) == pytest.approx(2 * 10 * 20 * 30 / 1e9)
    assert gflop(lambda: a.bfloat16() @ b.bfloat16()) == gflop(lambda: a @ b)


def test_a_plans_arithmetic_grows_by_the_iteration(model):
    one, two, four = (plan_gflop(model, 0.9, dataclasses.replace(CONFIG, iterations=n)) for n in (1, 2, 4))
    assert 0 < one < two
    assert four - two == pytest.approx(2 * (two - one))


COMPILED = """
import functools, torch
torch.compile = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
from worldmodel.planner import Planner
from worldmodel.learner import Learner
from worldmodel.batch import Batch
from worldmodel.model import WorldModel
from worldmodel.observation import Observation
from worldmodel.senses import STATE_KEY
from worldmodel.settings import LearningConfig, ModelConfig, PlannerConfig
torch.set_num_threads(1)
g = torch.Generator().manual_seed(0)
rank, together = RANK, TOGETHER
planned, learned = [], []
for compiled in (False, True):
    torch.manual_seed(0)
    config = ModelConfig(latent=16, group=4, width=16, bins=11, precision="fp32", rank=rank)
    model = WorldModel({"observation.state": (3,)}, 2, config)
    for p in model.parameters():
        if not p.detach().any():
            torch.nn.init.normal_(p, std=0.1)
    config = PlannerConfig(
        samples=8, policy_samples=2, elites=4, iterations=2, horizon=2, budget="fixed", together=together
    )
    seen = Observation.of(model.senses, {STATE_KEY: torch.linspace(-1, 1, 3)[None]})
    plan = Planner(model, 0.9, config, compiled).plan(seen, None, torch.Generator().manual_seed(1))
    planned.append(plan.tokens)
    learner = Learner(model, 0.9, LearningConfig(batch=8), compiled)
    h = learner.config.horizon
    ones = torch.ones(h, 8)
    g.manual_seed(2)
    seen = Observation.of(model.senses, {STATE_KEY: torch.randn(h + 1, 8, 3, generator=g)})
    batch = Batch(seen, torch.zeros(h, 8, 2), ones, ones, ones, torch.zeros(8, 2), torch.zeros(8))
    for _ in range(2):
        learner.update(batch, g)
    learned.append(learner.flat.clone())
torch.testing.assert_close(*planned, atol=1e-4, rtol=0)
torch.testing.assert_close(*learned, atol=1e-4, rtol=0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "together"), [(0, 0.0), (2, 0.5)])
def test_traced_it_plans_and_learns_the_same(rank, together):
    """Each part as one graph, forward and backward; the C++ that a compiler would then write is left out."""
    program = COMPILED.replace("RANK", str(rank)).replace("TOGETHER", str(together))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
