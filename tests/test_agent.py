"""Laws of the acting agent and its rollouts: when it plans, what it forgets, and that neighbours do not meet."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch

from policies.agent import Agent
from policies.storage.tensors import tensor_bytes
from policies.tokens.curves import Curve
from policies.training.episodes import episode_seed
from policies.training.rollouts import rollout
from worldmodel.observation import Observation
from worldmodel.planner import Planner
from worldmodel.senses import STATE_KEY
from worldmodel.settings import PlannerConfig

PLANNING = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=2, horizon=2)


@pytest.fixture
def make(toys):
    """Makes agents: of token length `length`, with a planner or with the policy alone."""

    def agent(length=1, planned=True, explore="", seed=0, every=0):
        token = toys.token_settings(length)
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


@pytest.mark.parametrize("length", [1, 2, 4])
def test_it_plans_once_a_token(make, length):
    agent = make(length)
    plans = counted(agent)
    for t in range(8):
        agent.act(seen(2, t))
        assert len(plans) == t // length + 1


@pytest.mark.parametrize("length", [1, 2, 4])
def test_its_actions_are_the_tokens_curve(make, length):
    agent = make(length)
    plans = counted(agent)
    actions = torch.stack([agent.act(seen(2, t)) for t in range(2 * length)], 1)
    for n, plan in enumerate(plans):
        assert torch.equal(actions[:, n * length : (n + 1) * length], agent.curve.actions(plan.tokens, length))


@pytest.mark.parametrize(("length", "every"), [(1, 2), (4, 1), (4, 3), (4, 4), (4, 6), (2, 4)])
def test_it_follows_its_plan_for_as_long_as_it_is_told(make, length, every):
    """Part of a token, or more than one; the next plan begins from what is left of this one."""
    agent = make(length, every=every)
    plans = counted(agent)
    actions = torch.stack([agent.act(seen(2, t)) for t in range(3 * every)], 1)
    assert len(plans) == 3
    for n, plan in enumerate(plans):
        whole = agent.curve.actions(plan.tokens, 2 * length)
        assert torch.equal(actions[:, n * every : (n + 1) * every], whole[:, :every])
    assert torch.equal(agent.warm_start.mean, agent.curve.advance(plans[-1].tokens, every))
    assert agent.totals.model_calls == sum(2 * plan.model_calls for plan in plans)


def test_more_steps_than_a_plan_has_are_refused(make):
    with pytest.raises(ValueError, match=r"^planner\.replan_every=9: at most 8, the control steps of a plan$"):
        make(4, every=9)


def test_the_policy_alone_follows_one_token_at_most(make):
    for every, steps in ((8, 4), (3, 3), (0, 4)):
        agent = make(4, planned=False, every=every)
        agent.act(seen(2))
        assert agent.until.tolist() == [steps] * 2
        assert agent.steps_per_decision == steps


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


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize(("planned", "explore"), [(True, "pink"), (True, ""), (False, "")])
def test_actions_are_in_range(make, length, planned, explore):
    agent = make(length, planned, explore)
    with torch.no_grad():
        agent.model.actor[-1].bias[: agent.curve.size] = 50  # a policy that wants more than there is
    for t in range(2 * length):
        assert agent.act(seen(200, t)).abs().max() <= 1


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("planned", [True, False])
def test_after_a_reset_it_is_as_new(make, length, planned):
    used, new = make(length, planned), make(length, planned)
    for t in range(2 * length + 1):
        used.act(seen(1, t))
    used.reset(torch.tensor([True]))
    used.generator.manual_seed(5)
    new.generator.manual_seed(5)
    for t in range(length + 1):
        assert torch.equal(used.act(seen(1, t)), new.act(seen(1, t)))


@pytest.mark.parametrize("length", [1, 4])
def test_after_somebody_elses_turn_it_is_as_new(make, length):
    used, new = make(length), make(length)
    for t in range(length + 1):
        used.act(seen(1, t))
    used.act(seen(1), torch.tensor([False]))
    used.generator.manual_seed(5)
    new.generator.manual_seed(5)
    for t in range(length + 1):
        assert torch.equal(used.act(seen(1, t)), new.act(seen(1, t)))


def test_where_somebody_else_acts_nothing_is_decided_and_what_was_is_forgotten(make):
    agent, other = make(4), make(4)
    turns = [torch.tensor([True, not 1 <= t <= 6]) for t in range(8)]
    for t, own in enumerate(turns):
        action, alone = agent.act(seen(2, t), own), other.act(seen(2, t))
        assert torch.equal(action[0], alone[0])  # the neighbour goes on as it would have
        assert agent.planned.tolist() == [t % 4 == 0, t in (0, 7)]
        assert agent.warm_start.valid.tolist() == [True, t in (0, 7)]


def test_without_a_reset_it_remembers(make):
    used, new = make(), make()
    used.act(seen())
    used.generator.manual_seed(5)
    new.generator.manual_seed(5)
    assert not torch.equal(used.act(seen()), new.act(seen()))


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


def test_a_neighbours_reset_leaves_a_token_and_its_plan(make):
    agent, other = make(4), make(4)
    for t in range(6):
        agent.act(seen(2, t))
        other.act(seen(2, t))
    agent.reset(torch.tensor([False, True]))
    one, two = agent.act(seen(2, 6)), other.act(seen(2, 6))
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[1], two[1])
    assert torch.equal(agent.warm_start.mean[:, 0], other.warm_start.mean[:, 0])


def test_it_explores_as_widely_as_the_plan_is_unsure(make):
    still, restless = make(), make(explore="white")
    plans = counted(restless)
    away = restless.act(seen(500)) - plans[0].tokens[0]
    assert torch.equal(still.act(seen(500)), plans[0].tokens[0].clamp(-1, 1))
    inside = (plans[0].tokens[0].abs() + 3 * plans[0].std[0]) < 1  # where nothing is clamped
    # An elite drawn by its weight is away from the mean by the spread, and the noise adds as much.
    assert 1.2 < (away / plans[0].std[0])[inside].std() < 1.6
    assert restless.std == pytest.approx(float(plans[0].std[0].mean()))


def test_its_noise_goes_on_only_where_it_decides(make):
    agent = make(4, explore="pink")
    agent.act(seen(2))
    agent.reset(torch.tensor([False, True]))
    before = agent.noise.parts.clone()
    agent.act(seen(2, 1))  # the second alone is due
    assert torch.equal(agent.noise.parts[:, 0], before[:, 0])
    assert (agent.noise.parts[:, 1] != before[:, 1]).all()


def test_another_number_of_environments_begins_anew(make):
    agent = make(4)
    agent.act(seen(2))
    assert agent.act(seen(3)).shape == (3, 2)
    assert agent.at.tolist() == [1, 1, 1]


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("planned", [True, False])
def test_an_agent_read_back_goes_on_to_the_bit(make, length, steps, planned):
    one, other = make(length, planned, "pink"), make(length, planned, "pink", seed=9)
    for t in range(steps):
        one.act(seen(2, t))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    other.generator.set_state(one.generator.get_state())
    for t in range(6):
        assert torch.equal(one.act(seen(2, t)), other.act(seen(2, t)))
        assert one.std == other.std


def test_what_it_plans_from_is_read_back_to_where_the_model_computes(make):
    one, other = make(4), make(4)
    one.act(seen(2))
    other.model.to("meta")
    other.load_state_dict(one.state_dict())
    assert other.warm_start.mean.device == other.warm_start.valid.device == other.model.device == torch.device("meta")


def test_what_was_read_back_is_not_acted_on(make):
    agent = make(4)
    agent.act(seen(2))
    saved = copy.deepcopy(agent.state_dict())
    kept = copy.deepcopy(saved)
    again = make(4)
    again.load_state_dict(saved)
    for t in range(6):
        again.act(seen(2, t))
    assert tensor_bytes(saved) == tensor_bytes(kept)


def test_a_rollout_is_the_episodes_written_out(make, toys):
    env, agent = toys.slides(15, 4, 9), make(4, planned=False)
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
    spent, wasted = agent.totals, tireless.totals
    assert (spent.decisions, wasted.decisions) == (each.sum(), 3 * each.max())
    assert spent.model_calls_per_decision == wasted.model_calls_per_decision


def test_a_rollout_forgets_the_one_before(make, toys):
    env, agent = toys.slides(6, 6), make(4)
    one = rollout(env, agent, 3, 100)
    agent.generator.manual_seed(0)
    again = rollout(env, agent, 3, 100)
    assert np.array_equal(one.returns, again.returns)


def test_a_rollout_without_an_end_stops_at_its_limit(make, toys):
    result = rollout(toys.slides(None, None), make(planned=False), 0, 12)
    assert result.lengths.tolist() == [12, 12]
    assert np.isfinite(result.returns).all()


def test_seeds_do_not_repeat():
    seeds = [
        s
        for run in (0, 1)
        for stream in (0, 1, 2)
        for env, episode in itertools.product(range(4), range(10))
        for s in [episode_seed(run, stream, env, episode)]
    ]
    assert len(set(seeds)) == len(seeds)
    assert episode_seed(1, 0, 2, 3) == 3790953169  # that of every run so far


def test_an_episode_that_ends_before_the_agent_has_acted_changes_the_noise_all_the_same(make):
    """As those of the seeding do, in which it is only drawn from."""
    agent = make(explore="mixed")
    agent.noise.draw(1, 2)
    agent.reset(torch.ones(1, dtype=torch.bool))
    agent.noise.draw(1, 2)
    assert agent.noise.pink.tolist() == [False]


@pytest.mark.parametrize("length", [1, 2])
def test_where_plans_pay_nothing_the_policy_acts_for_a_while(make, length):
    """To a model that imagines no reward plans are worth the same at every decision, in the second environment only."""
    agent, alone = make(length), make(length, planned=False)
    alone.model = agent.model
    patience, plan = agent.planner.config.td_check_steps, agent.planner.plan
    for p in agent.model.outcome.parameters():
        p.data.zero_()

    def promising(*args, **kwargs):
        found = plan(*args, **kwargs)
        worth = torch.tensor([[0.0], [5.0]]).expand_as(found.returns)
        return dataclasses.replace(found, tokens=torch.full_like(found.tokens, 0.123), returns=worth)

    agent.planner.plan = promising
    own = []
    for t in range(3 * patience):
        action, modes = agent.act(seen(2, t)), alone.act(seen(2, t))
        own.append((action == modes).all(-1))
        if agent.decision is not None and t % length == 0:
            assert torch.equal(agent.decision.by_policy, own[-1]) and alone.decision.by_policy.all()
            for i, stands_in in enumerate(own[-1].tolist()):
                first, expected = agent.decision.plan(i), (alone.decision if stands_in else None)
                assert len(first) == (1 if stands_in else PLANNING.horizon)
                assert expected is None or torch.equal(first, expected.plan(i))
    first, second = torch.stack(own).T.tolist()
    assert not any(first)
    begun = second.index(True)
    assert begun % length == 0 and patience / 2 < begun < patience
    assert second[begun : 2 * begun + patience] == [True] * patience + [False] * begun
    assert second[2 * begun + patience]


def test_an_exploring_agent_follows_its_plans_whatever_comes_of_them(make):
    assert make().td_check is not None
    assert make(explore="white").td_check is None and make(planned=False).td_check is None
