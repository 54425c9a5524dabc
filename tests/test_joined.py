"""Laws of tokens that are joined: each begins where the last one ended, in plans, in what is done and in learning."""

import dataclasses

import pytest
import torch

from policies.agent import Agent
from policies.planner_link.messages import Begin, Question
from policies.planner_link.service import PlannerService
from policies.text_encoder import WORDS
from policies.tokens.curves import Curve
from worldmodel.layers import twohot_mean
from worldmodel.losses import UpdateNoise, losses, targets
from worldmodel.mppi import WarmStart, rollout
from worldmodel.observation import Observation
from worldmodel.planner import Planner, TDCheck, join, search_in
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY
from worldmodel.settings import LearningConfig, PlannerConfig, TokenConfig

TOKEN = TokenConfig(4, 3, 2, joined=True)
CURVE = Curve.of_token(TOKEN, 2)
CONFIG = PlannerConfig(samples=12, policy_samples=4, elites=6, iterations=2, horizon=3)
STEEP = 2 * 2 / 4  # the most that a parabola of control points in [-1, 1] changes in one of four steps


@pytest.fixture
def model(toys):
    """A model whose tokens are joined parabolas."""
    return toys.tiny_model(3, CURVE.size, token=TOKEN)


def seen(count=1, seed=0):
    """Random observations of `count` environments."""
    draws = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return Observation.of({STATE_KEY: (3,)}, {STATE_KEY: draws})


def uniform(*shape, seed=0):
    """Numbers in [-1, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def joined(tokens, start):
    """Whether sentences (T, B, ..., 6) begin at `start` (B, 2) and go on where they were."""
    first = start.view(len(start), *[1] * (tokens.dim() - 3), 2).expand_as(tokens[0, ..., :2])
    before = torch.cat([first.unsqueeze(0), tokens[:-1, ..., -2:]])
    return torch.allclose(tokens[..., :2], before, atol=1e-6)


def test_what_has_no_curve_cannot_be_joined():
    with pytest.raises(ValueError, match=r"^model\.token\.joined=true: "):
        TokenConfig(4, 2, 0, joined=True)


@pytest.mark.parametrize("remembered", [False, True])
def test_every_plan_begins_at_the_last_action_and_goes_on_where_it_was(model, remembered):
    planner, start = Planner(model, 0.9, CONFIG), uniform(5, 2, seed=2)
    memory = WarmStart.of(uniform(3, 5, 6, seed=1)) if remembered else None
    plan = planner.plan(seen(5), memory, torch.Generator().manual_seed(0), start=start)
    assert joined(plan.elites, start) and joined(plan.tokens, start)
    assert joined(search_in(model, 0.9).propose(join(plan.latent, start), torch.randn(3, 5, 4, 6)), start)
    from_rest = planner.plan(seen(5), memory, torch.Generator().manual_seed(0))
    assert joined(from_rest.tokens, torch.zeros(5, 2))


@pytest.mark.parametrize("sentences", [(), ("stand up", "walk forward")])
def test_a_preview_is_the_next_decision_from_where_the_curve_is_now_and_changes_nothing(toys, sentences):
    senses = {STATE_KEY: (3,)} | ({LANGUAGE_KEY: (WORDS.size,)} if sentences else {})
    line = TokenConfig(4, 2, 1, joined=True)
    model, start = toys.tiny_model(senses, 4, token=line), torch.zeros(2, 2)
    agent = Agent.acting(model, CONFIG, 0.9, sentences, torch.Generator().manual_seed(0))
    for step in range(10):
        now = seen(2, seed=step)
        if sentences:
            now = Observation.of(senses, {**now.values, LANGUAGE_KEY: WORDS.encode(["please walk on", "up"])})
        plan = agent.preview(now)
        assert torch.allclose(plan.tokens[0, :, :2], start, atol=1e-6)
        agent.act(now)
        assert bool(agent.planned.all()) == (step % 4 == 0) == torch.equal(plan.tokens, agent.plan.tokens)
        start = agent.curve.at(agent.decision.tokens, step % 4 + 1)


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("every", [0, 2, 8])
@pytest.mark.parametrize("explore", ["", "white"])
def test_actions_never_jump_from_one_token_to_the_next(model, planned, every, explore):
    planner = Planner(model, 0.9, CONFIG) if planned else None
    agent = Agent(model, CURVE, planner, torch.Generator().manual_seed(0), explore if planned else "", every)
    last, done = torch.zeros(2, 2), []
    for step in range(24):
        done.append(agent.act(seen(2, seed=step)))
        assert (done[-1] - last).abs().max() <= STEEP
        last = done[-1]
        if step and step % 4 == 0 and not every:  # four actions are enough to know the curve that they lie on
            ended = CURVE.encode(torch.stack(done[-5:-1], 1))
            following = CURVE.encode(agent.actions)
            assert torch.allclose(following[:, :2], ended[:, -2:], atol=1e-4)


def test_nothing_jumps_where_the_policy_stands_in_for_some_environments_only_and_an_episode_begins_at_zero(
    model, monkeypatch
):
    """A plan is followed for two tokens, the policy's token for one; each goes on from where its own curve ended."""
    agent = Agent(model, CURVE, Planner(model, 0.9, CONFIG), torch.Generator().manual_seed(0), every=8)
    failed, held = TDCheck.failed, torch.tensor([False, True])
    monkeypatch.setattr(TDCheck, "failed", lambda check, returns, due: failed(check, returns, due) | due & held)
    first = agent.decide(seen(2))
    assert first.until.tolist() == [8, 4]
    ends = [first.tokens[1, 0, -2:], first.tokens[0, 1, -2:]]
    for i in (1, 0):
        following = agent.decide(seen(2, seed=i), due=torch.arange(2) == i)
        assert torch.allclose(following.tokens[0, i, :2], ends[i].clamp(-1, 1), atol=1e-5)
    agent.reset(torch.tensor([True, False]))
    assert torch.allclose(agent.decide(seen(2)).tokens[0, 0, :2], torch.zeros(2), atol=1e-5)


@pytest.mark.parametrize("side", [-1, 1])
def test_where_a_curve_ended_is_in_range_though_a_mean_may_be_out_of_it_by_an_ulp(model, side):
    with torch.no_grad():
        model.actor[-1].bias[:6] = 50.0 * side
    agent = Agent(model, CURVE, Planner(model, 0.9, CONFIG), torch.Generator().manual_seed(0))
    assert (side * agent.decide(seen(300)).tokens[0, :, -2:]).max() > 1 and agent.reached.abs().max() <= 1


def test_what_is_not_chosen_is_not_learned(toys, model):
    """No loss moves what the policy says of the point that it shares with the token before."""
    draws = UpdateNoise(*torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0)), torch.ones(6, 1))
    config, data = LearningConfig(batch_size=6), dataclasses.replace(toys.batch(model), demonstrated=torch.eye(6)[0])
    total = losses(model, model.value, data, draws, torch.tensor(1.0), 0.9, config).total(config)
    bias = model.actor[-1].bias
    slope = torch.autograd.grad(total, bias)[0].view(2, 6)  # of the means, of the deviations
    assert torch.equal(slope[:, :2], torch.zeros(2, 2))
    assert (slope[:, 2:] != 0).all()


def test_the_value_at_a_sentences_end_is_of_a_token_that_goes_on_from_it(model):
    z, start = model.encode(seen(4)), uniform(4, 2)
    search, root = search_in(model, 0.9), join(z, start)
    tokens = search.propose(root, torch.zeros(2, 4, 1, 6))
    elsewhere = torch.cat([uniform(2, 4, 1, 2, seed=5), tokens[..., 2:]], -1)
    as_executed, found = rollout(search, root, elsewhere)
    assert torch.equal(as_executed, tokens)  # whatever beginnings are asked for
    found = found[:, 0]
    total, factor = torch.zeros(4), torch.ones(4)
    for token in tokens[:, :, 0]:
        z, reward, continues = model.step(z, token)
        total += factor * reward
        factor = factor * 0.9 * continues
    word = torch.cat([token[:, 4:], model.policy(z).mode[:, 2:]], -1)
    assert torch.allclose(found, total + factor * twohot_mean(model.value(z, word)).mean(0), atol=1e-5)


def test_what_follows_a_window_depends_on_where_its_last_token_ended(toys, model):
    target, data = toys.tiny_model(3, CURVE.size, seed=7, token=TOKEN).value, toys.batch(model)
    elsewhere = data.token.clone()
    elsewhere[1:, :, :4] = -elsewhere[1:, :, :4]
    ended = elsewhere.clone()
    ended[2, 0, 4:] = -ended[2, 0, 4:]
    ended[0, 2, 4:] = -ended[0, 2, 4:]  # the only token of the third window
    ended[1, 3, 4:] = -ended[1, 3, 4:]  # never happened
    noise = torch.zeros(6, 6)
    one, same, other = (
        targets(model, target, dataclasses.replace(data, token=token), noise, 0.9)[1]
        for token in (data.token, elsewhere, ended)
    )
    assert torch.equal(one, same)
    assert ((one != other) == torch.tensor([True, False, True, False, False, False])).all()


def test_a_robots_curves_go_on_from_each_other_until_it_says_that_it_stopped(model):
    agent = Agent(model, CURVE, Planner(model, 0.9, CONFIG), torch.Generator().manual_seed(0))
    service = PlannerService(agent, Begin("task", 3, 2, "delta", 30.0, 4, 4, 3, 2))
    ends = torch.zeros(2)
    for number, fresh in enumerate([True, False, False, True, False]):
        answer = service.answer(Question(number, fresh, uniform(3, seed=number).numpy()))
        points = torch.from_numpy(answer.tokens[0])
        assert torch.allclose(points[:2], torch.zeros(2) if fresh else ends, atol=1e-6)
        ends = points[-2:]
