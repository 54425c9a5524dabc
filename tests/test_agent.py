"""Laws of the acting agent, its rollouts and its noise: when it plans, what it forgets, how strong the noise is."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from configs.command import composed
from configs.runs.parts import build
from configs.schema import TrainConfig
from policies.agent import Agent
from policies.decisions.decision import Totals
from policies.noise import COLOURS, Noise
from policies.tokens.curves import Curve
from policies.training.episodes import episode_seed
from policies.training.rollouts import rollout
from worldmodel import strict
from worldmodel.observation import Observation
from worldmodel.planner import Planner
from worldmodel.registry import BUILT_IN
from worldmodel.senses import STATE_KEY
from worldmodel.settings import PlannerConfig, TokenConfig

PLANNING = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=2, horizon=2, td_check_steps=24)


@pytest.fixture
def make(toys):
    """Makes agents: of token length `length`, with a planner or with the policy alone."""

    def agent(length=1, planned=True, explore="", seed=0, every=0, token=None):
        token = token or toys.token_settings(length)
        curve = Curve.of_token(token, 2)
        model = toys.tiny_model(3, curve.size, token=token)
        planner = Planner(model, token.discount(0.9), PLANNING) if planned else None
        return Agent(model, curve, planner, torch.Generator().manual_seed(seed), explore, every)

    return agent


def seen(count=1, seed=0):
    """Random observations of `count` environments."""
    return state(torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)))


def state(values):
    """An observation of nothing but states."""
    return Observation.of({STATE_KEY: (3,)}, {STATE_KEY: values})


def counted(agent):
    """Make the agent note each plan; returns the notes."""
    plans, plan = [], agent.planner.plan

    def noting(*args, **kwargs):
        plans.append(plan(*args, **kwargs))
        return plans[-1]

    agent.planner.plan = noting
    return plans


@pytest.mark.parametrize(("length", "every"), [(1, 0), (2, 0), (1, 2), (4, 1), (4, 3), (4, 6)])
def test_it_follows_its_plan_for_as_long_as_is_set(make, length, every):
    """A token by default, part of one, or more; the next plan begins from what is left of this one."""
    agent = make(length, every=every)
    plans, every = counted(agent), every or length
    actions = torch.stack([agent.act(seen(2, t)) for t in range(3 * every)], 1)
    assert len(plans) == 3 and agent.steps_per_decision == every
    for n, plan in enumerate(plans):
        whole = agent.curve.actions(plan.tokens, 2 * length)
        assert torch.equal(actions[:, n * every : (n + 1) * every], whole[:, :every])
    assert torch.equal(agent.warm_start.mean, agent.curve.advance(plans[-1].tokens, every))
    assert agent.totals == Totals(6, 6 * every, sum(2 * plan.model_calls for plan in plans))
    following, reward, keep = agent.planner.imagine(plans[-1].latent, plans[-1].tokens[0])
    torch.testing.assert_close(agent.decision.imagined, (following, reward))
    share = every / length  # of what is imagined of a token, the part for which it is followed
    recorded = torch.stack([keep**share, reward * share, torch.full((2,), float(every))])
    torch.testing.assert_close(agent.td_check.state[4:7], recorded)
    agent.totals = Totals(2, 3, 5)
    assert (agent.steps_per_decision, agent.totals.model_calls_per_decision) == (1.5, 2.5)


@pytest.mark.parametrize(("planned", "explore"), [(True, "mixed"), (True, ""), (False, "")])
def test_an_agent_restored_goes_on_as_the_one_saved(make, planned, explore):
    one, other = make(4, planned, explore), make(4, planned, explore, seed=1)
    one.wide = planned
    for t in range(6):
        one.act(seen(3, t))
        other.act(seen(2, t))
        if t == 2:
            one.reset(torch.tensor([False, True, False]))
    other.load_state_dict(one.state_dict())
    other.generator.set_state(one.generator.get_state())
    assert (other.std, other.totals, other.steps_per_decision) == (one.std, one.totals, one.steps_per_decision)
    for t in range(6, 15):
        assert torch.equal(one.act(seen(3, t)), other.act(seen(3, t)))
    assert make(4, planned, explore).state_dict().keys() <= {"frames", "wide", "noise"}  # nothing was decided yet


@pytest.mark.parametrize("planned", [True, False])
def test_an_agent_that_acts_is_one_that_does_not_explore(make, planned):
    plain, settings = make(4, planned, every=2), dataclasses.replace(PLANNING, replan_every=2)
    draws = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    agent = Agent.acting(plain.model, settings, 0.9, (), draws(), planned)
    assert all(torch.equal(agent.act(seen(2, t)), plain.act(seen(2, t))) for t in range(6))
    assert agent.sentences is None and (agent.td_check is not None) == planned
    assert make(planned=planned, explore="white").td_check is None  # exploring, it follows its plans all the same
    assert len(Agent.acting(plain.model, settings, 0.9, ("go on",), draws()).sentences) == 1


def test_a_plan_is_followed_to_its_end_at_most_and_the_policys_token_too(make):
    with pytest.raises(ValueError, match=r"^planner\.replan_every=9: at most 8, the control steps of a plan$"):
        make(4, every=9)
    for every, steps in ((8, 4), (3, 3), (0, 4)):
        agent = make(4, planned=False, every=every)
        agent.act(seen(2))
        assert agent.until.tolist() == [agent.steps_per_decision] * 2 == [steps] * 2 and not agent.planned.any()


def test_it_says_what_the_planner_chose_and_when(make):
    agent = make(4, explore="white")
    plans = counted(agent)
    for t in range(6):
        if t == 3:
            agent.reset(torch.tensor([False, True]))
        agent.act(seen(2, t))
        begun = [t in (0, 4), t in (0, 3)]
        assert agent.planned.tolist() == begun
        assert torch.equal(agent.decision.tokens[0][agent.planned], plans[-1].tokens[0][agent.planned])


@pytest.mark.parametrize(("length", "side"), [(1, -1), (1, 1), (4, 1)])
@pytest.mark.parametrize(("planned", "explore"), [(True, "pink"), (True, ""), (False, "")])
def test_actions_are_of_a_curve_and_in_range(make, planned, explore, length, side):
    agent = make(length, planned, explore)
    with torch.no_grad():
        agent.model.actor[-1].bias[: agent.curve.size] = 50 * side  # a policy that wants more than there is
    for t in range(2 * length):
        assert agent.act(seen(200, t)).abs().max() <= 1
        assert torch.allclose(agent.curve.decode(agent.curve.encode(agent.actions)), agent.actions, atol=1e-3)
    if length == 1 and planned and not explore:
        assert agent.plan.tokens.abs().max() > 1  # a mean may be out of range by an ulp


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("turn", ["reset", "another's", "its own"])
def test_after_a_reset_or_somebody_elses_turn_it_is_as_new(make, length, turn):
    used, new = make(length), make(length)
    for t in range(length):
        used.act(seen(1, t))
    if turn == "reset":
        used.reset(torch.tensor([True]))
    elif turn == "another's":
        used.act(seen(1), torch.tensor([False]))
    for agent in (used, new):
        agent.generator.manual_seed(5)
    same = [torch.equal(used.act(seen(1, t)), new.act(seen(1, t))) for t in range(length + 1)]
    assert all(same) == (turn != "its own")  # else it remembers its last plan


def test_where_somebody_else_acts_nothing_is_decided_and_what_was_is_forgotten(make):
    agent, other = make(4), make(4)
    turns = [torch.tensor([True, not 1 <= t <= 6]) for t in range(8)]
    for t, own in enumerate(turns):
        action, alone = agent.act(seen(2, t), own), other.act(seen(2, t))
        assert torch.equal(action[0], alone[0])  # the neighbour goes on as it would have
        assert agent.planned.tolist() == [t % 4 == 0, t in (0, 7)]
        assert agent.warm_start.valid.tolist() == [True, t in (0, 7)]


@pytest.mark.parametrize("length", [2, 4])
def test_environments_out_of_phase_act_as_each_alone(make, length):
    together, apart = make(length, planned=False), [make(length, planned=False) for _ in range(2)]
    lost = torch.tensor([False, True])
    for t in range(4 * length):
        if t == length + 1:  # the second one's episode ends in the middle of a token
            together.reset(lost)
            apart[1].reset(torch.tensor([True]))
        both = together.act(seen(2, t))
        for i, agent in enumerate(apart):
            own = agent.act(seen(2, t).map(lambda x, i=i: x[i : i + 1]))
            assert torch.allclose(both[i : i + 1], own, atol=1e-6)


def test_acting_at_random_is_uniform_of_the_noises_colour_and_drops_all_plans(make):
    agent, other = make(4, explore="pink"), make(4, explore="pink")
    for each in (agent, other):
        each.act(seen(500))
    drawn = torch.stack([agent.act_at_random(seen(500, t)) for t in range(40)])
    assert not agent.planned.any() and agent.warm_start is None
    for share in (0.25, 0.5, 0.75):
        assert float((drawn < 2 * share - 1).float().mean()) == pytest.approx(share, abs=0.02)
    assert float((drawn[1:] * drawn[:-1]).mean()) > 0.1  # white noise: 0
    agent.act(seen(500))
    assert agent.planned.all() and not make(planned=False, explore="pink").wide
    with pytest.raises(ValueError, match="explores"):
        make().act_at_random(seen())


def test_a_token_of_one_action_is_held_and_of_any_size_when_acting_at_random(make):
    agent = make(explore="white", token=TokenConfig(3, 1, 0, False))
    drawn = torch.stack([agent.act_at_random(seen(2, t)) for t in range(4)])
    agent.reset(torch.tensor([True, False]))
    drawn = torch.cat([drawn, torch.stack([agent.act_at_random(seen(2, t)) for t in range(4)])])
    changed = (drawn[1:] != drawn[:-1]).all(-1)
    assert torch.equal(changed, (drawn[1:] != drawn[:-1]).any(-1))
    assert changed.T.int().tolist() == [[0, 0, 1, 1, 0, 0, 1], [0, 0, 1, 0, 0, 1, 0]]  # where an episode ended, anew
    sizes = agent.act_at_random(seen(4000)).abs().amax(-1)
    assert float((sizes < 0.25).float().mean()) == pytest.approx(7 / 16, abs=0.03)  # of uniform ones: 1 / 16


def test_it_explores_as_widely_as_the_plan_is_unsure(make):
    still, restless = make(), make(explore="white")
    plans = counted(restless)
    away = restless.act(seen(500)) - plans[0].tokens[0]
    assert torch.equal(still.act(seen(500)), plans[0].tokens[0].clamp(-1, 1))
    inside = (plans[0].tokens[0].abs() + 3 * plans[0].std[0]) < 1  # where nothing is clamped
    # An elite drawn by its weight is away from the mean by the deviation, and the noise adds as much.
    assert 1.2 < (away / plans[0].std[0])[inside].std() < 1.6
    assert restless.std == pytest.approx(float(plans[0].std[0].mean()))


def test_a_rollout_is_the_episodes_written_out(make, toys):
    env, agent = toys.slides(15, 4, 9), make(4, planned=False)
    agent.act(seen(3))  # what it did before does not matter
    ticks = []
    result = rollout(env, agent, 3, 100, lambda: ticks.append(1))
    assert len(ticks) == result.lengths.max() <= 15
    for i, limit in enumerate((15, 4, 9)):
        single, alone = toys.Slide(limit), make(4, planned=False)
        observation, _ = single.reset(seed=episode_seed(3, 1, i, 0))
        total, length, over = 0.0, 0, False
        while not over:
            action = alone.act(state(torch.from_numpy(observation[STATE_KEY])[None]))[0].numpy()
            observation, reward, terminated, truncated, _ = single.step(action)
            total, length, over = total + reward, length + 1, terminated or truncated
        assert result.lengths[i] == length
        assert result.returns[i] == pytest.approx(total, abs=1e-4)


def test_a_rollout_decides_nothing_for_an_episode_that_is_over_and_the_others_go_on_as_they_would(make, toys):
    agent, tireless = make(4), make(4)
    played, act = rollout(toys.slides(15, 4, 9), agent, 3, 100), tireless.act
    tireless.act = lambda observation, own: act(observation)
    assert np.array_equal(played.returns, rollout(toys.slides(15, 4, 9), tireless, 3, 100).returns)
    each = -(-played.lengths // 4)
    masked, wasted = agent.totals, tireless.totals
    assert (masked.decisions, wasted.decisions) == (each.sum(), 3 * each.max())
    assert masked.model_calls_per_decision == wasted.model_calls_per_decision


def test_a_rollout_without_an_end_stops_at_its_limit(make, toys):
    result = rollout(toys.slides(None, None), make(planned=False), 0, 12)
    assert result.lengths.tolist() == [12, 12] and np.isfinite(result.returns).all()


def test_seeds_do_not_repeat():
    each = itertools.product((0, 1), (0, 1, 2), range(4), range(10))
    assert len({episode_seed(*numbers) for numbers in each}) == 2 * 3 * 4 * 10
    assert episode_seed(1, 0, 2, 3) == 3790953169  # that of every run so far


@pytest.mark.parametrize("length", [1, 2])
def test_where_plans_pay_nothing_the_policy_acts_for_a_while(make, length):
    """To a model that imagines no reward plans promise the same at every decision, in the second environment only."""
    agent, alone = make(length), make(length, planned=False)
    alone.model = agent.model
    patience, plan, own = agent.planner.config.td_check_steps, agent.planner.plan, []
    for p in agent.model.outcome.parameters():
        p.data.zero_()

    def promising(*args, **kwargs):
        found = plan(*args, **kwargs)
        returns = torch.tensor([[0.0], [5.0]]).expand_as(found.returns)
        return dataclasses.replace(found, tokens=torch.full_like(found.tokens, 0.123), returns=returns)

    agent.planner.plan = promising
    for t in range(3 * patience):
        own.append((agent.act(seen(2, t)) == alone.act(seen(2, t))).all(-1))
        if t % length == 0:
            assert torch.equal(agent.decision.by_policy, own[-1]) and alone.decision.by_policy.all()
            assert [len(agent.decision.plan(i)) for i in (0, 1)] == [1 if by else PLANNING.horizon for by in own[-1]]
    first, second = torch.stack(own).T.tolist()
    begun = second.index(True)
    assert not any(first) and begun % length == 0 and patience / 2 < begun < patience
    assert second[begun : 2 * begun + patience] == [True] * patience + [False] * begun
    assert second[2 * begun + patience]


# Exploration noise.


@pytest.mark.parametrize("colour", BUILT_IN["noise"])
def test_each_draw_is_standard_normal(generator, colour):
    assert set(COLOURS) == set(BUILT_IN["noise"])
    noise = Noise(colour, generator)
    for _ in range(20):
        drawn = noise.draw(50, 400)
        assert abs(float(drawn.mean())) < 0.03 and abs(float(drawn.std()) - 1) < 0.03
        assert abs(float((drawn.abs() < 1).float().mean()) - 0.6827) < 0.02


@pytest.mark.parametrize(("colour", "slope", "off"), [("white", 0.0, 0.03), ("pink", -1.0, 0.25)])
def test_its_power_falls_as_its_colour_says_whatever_is_drawn_for_others(generator, colour, slope, off):
    noise, draws = Noise(colour, generator), []
    for t in range(4096):
        draws.append(noise.draw(2, 64, due=torch.tensor([t % 3 == 0, True]) if t else None)[1])
    power = (np.abs(np.fft.rfft(torch.stack(draws).numpy(), axis=0)) ** 2).mean(1)
    frequency = np.fft.rfftfreq(len(draws))  # in cycles per draw
    band = (frequency > 1 / (2 * np.pi * 64)) & (frequency < 0.15)
    assert np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0] == pytest.approx(slope, abs=off)


def test_mixed_is_pink_in_one_episode_of_an_environment_and_white_in_the_next(generator):
    noise, lasts = Noise("mixed", generator), []
    for ended in ([0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]):
        noise.reset(torch.tensor(ended) > 0)
        draws = torch.stack([noise.draw(4, 500) for _ in range(30)])
        lasts.append(((draws[:-1] * draws[1:]).mean((0, 2)) > 0.3).int().tolist())
    assert lasts == [[1, 0, 1, 0], [0, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]]
    alone = Noise("mixed", generator)
    assert sum(float((alone.draw(1, 500) * alone.draw(1, 500)).mean()) for _ in range(15)) > 0.3 * 15


def test_what_explores_searches_in_full_and_what_is_judged_acts_by_the_averaged_weights(toys, here):
    keys = composed("train", [*toys.tiny_keys, "planner.anchor=2", "planner.deadline_ms=9"])
    parts = build(strict.build(TrainConfig, keys))
    exploring, judged = parts.trainer.agent, parts.evaluator(True, 0)
    search = [agent.planner.config for agent in (exploring, judged)]
    assert [config.anchor for config in search] == [0, 2]
    assert [config.deadline_ms for config in search] == [0, 9]  # what is learned does not depend on the clock
    assert (exploring.noise is not None, judged.noise is not None) == (True, False)
    assert exploring.model is exploring.planner.model is parts.trainer.learner.model
    assert judged.model is judged.planner.model is parts.trainer.learner.acting
    assert parts.evaluator(False, 0).planner is None
    parts.close()
