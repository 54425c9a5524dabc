"""Laws of acting under guidance: weight 0 changes nothing, with more the plans follow it from the next decision on."""

import math

import pytest
import torch

from policies.agent import Agent
from worldmodel.errors import UserError
from worldmodel.guidance import Guidance, Probes, Term
from worldmodel.senses import STATE_KEY
from worldmodel.settings import PlannerConfig

PLANNING = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=2, horizon=2, td_check_steps=24)


@pytest.fixture
def acting(toys):
    """Makes agents that do not explore, all alike."""

    def agent(planned=True):
        model = toys.tiny_model(3, 4, token=toys.token_settings(2))
        return Agent.acting(model, PLANNING, 0.9, (), torch.Generator().manual_seed(0), planned)

    return agent


@pytest.fixture
def wish():
    """A guidance to have the latent's first number above a half."""
    weight = torch.zeros(1, 16)
    weight[0, 0] = 1.0
    numbers = weight, torch.zeros(1), torch.ones(1), torch.zeros(1), torch.ones(1)
    return Guidance((Term("first", 0.5, math.inf),), Probes(("first",), *numbers))


def acted(agent, toys, steps=12, between=lambda step: None):
    """The actions in two environments; `between` is called before each."""
    actions, g = [], torch.Generator().manual_seed(1)
    for step in range(steps):
        between(step)
        actions.append(agent.act(toys.observed({STATE_KEY: torch.randn(2, 3, generator=g)})))
    return torch.stack(actions)


@pytest.mark.parametrize("planned", [True, False])
def test_without_weight_it_is_the_agent_as_it_was_to_the_bit(acting, wish, toys, planned):
    plain, agent = acting(planned), acting(planned)
    own = agent.model, agent.planner
    agent.guide([(wish, 1.0)], 0.7)
    assert agent.model is not own[0]
    for guidances, weight in ([(wish, 1.0)], 0.0), ([], 1.0):
        agent.guide(guidances, weight)
        assert agent.model is own[0] and agent.planner is own[1]
    assert torch.equal(acted(agent, toys), acted(plain, toys))


def test_a_guidance_holds_from_the_next_decision_on_and_plans_begin_where_they_were(acting, wish, toys):
    plain, agent = acting(), acting()
    starts = []

    def guide(step):
        if step == 5:  # in the middle of a token of two
            starts.append(agent.warm_start)
            agent.td_check.state = torch.ones(8, 2)
            agent.guide([(wish, 1.0)], 1.0)
            assert agent.warm_start is starts[0] and not agent.td_check.state.any()

    actions, own = acted(agent, toys, between=guide), acted(plain, toys)
    assert torch.equal(actions[:6], own[:6]) and not torch.equal(actions[6], own[6])


def test_under_full_weight_plans_seek_what_the_guidance_says(acting, wish, toys):
    """Their imagined latents fulfil it better than those of the agent's own plans, in the mean."""
    seen, found = toys.observed({STATE_KEY: torch.randn(32, 3)}), []
    for weight in (0.0, 1.0):
        agent = acting()
        agent.guide([(wish, 1.0)], weight)
        plan = agent.planner.plan(seen, None, agent.generator)
        states = [plan.latent]
        for token in plan.tokens:
            states.append(agent.model.step(states[-1], token)[0])
        found.append(wish.reward(torch.stack(states[1:])).mean())
    assert found[1] > found[0] + 0.05


def test_weights_out_of_range_are_refused(acting, wish):
    for weight in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match=r"guidance\.weight=.*: from 0 to 1"):
            acting().guide([(wish, 1.0)], weight)
    with pytest.raises(UserError, match="weights above 0"):
        acting().guide([(wish, 0.0)], 1.0)
