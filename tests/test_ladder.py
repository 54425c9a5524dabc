"""Laws of the ladder: what is found of actuators, how it is planned with, and which rung follows which."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from policies.agent import Agent
from policies.alarms import NEVER, TINY, Alarms, Band
from policies.cases import Uses
from policies.ladder import GO_ON, IDENTIFY, PATIENCE, QUIET, STOP, Ladder
from policies.tools import Tool
from worldmodel.actuators import Corrected, executed, identify
from worldmodel.guidance import Guidance
from worldmodel.observation import Observation
from worldmodel.planner import Planner
from worldmodel.probes import Probes
from worldmodel.settings import PlannerConfig

CONFIG = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=2, horizon=2)
FAULTS = {
    "whole": ([1, 1, 1], [0, 0, 0]),
    "flip": ([1, -1, 1], [0, 0, 0]),
    "weak": ([1 / 3, 1 / 3, 1 / 3], [0, 0, 0]),
    "dead": ([1, 1, 0], [0, 0, 0]),
    "offset": ([1, 1, 1], [0, 0.4, -0.3]),
}


@pytest.fixture(scope="module")
def model(toys):
    """A model of three actuators."""
    return toys.tiny_model(points=3)


@pytest.mark.parametrize("fault", FAULTS)
def test_gains_and_offsets_are_found_from_a_few_tokens(model, fault):
    drawn = torch.Generator().manual_seed(1)
    z = model.encode(Observation.of(model.senses, {"observation.state": torch.randn(12, 3, generator=drawn)}))
    w = 2 * torch.rand(12, 3, generator=drawn) - 1
    gain, offset = (torch.tensor(each, dtype=torch.float32) for each in FAULTS[fault])
    following = model.step(z, executed(w, gain[None], offset[None]))[0]
    found = identify(model, z, w, following, torch.ones(3), torch.zeros(3))
    assert torch.allclose(found[0], gain, atol=0.1) and torch.allclose(found[1], offset, atol=0.1)
    assert found[2] < 0.05 or fault == "whole"
    assert identify(model, z, w, following, gain, offset)[0] == pytest.approx(gain.tolist(), abs=0.02)


def test_what_was_not_moved_stays_as_believed(model):
    z = torch.softmax(torch.randn(12, 4, 4), -1).flatten(1)
    w = torch.zeros(12, 3)
    w[:, 0] = torch.linspace(-1, 1, 12)
    following = model.step(z, executed(w, torch.tensor([[-1.0, -1.0, 1.0]]), torch.zeros(1, 3)))[0]
    gain, offset, _ = identify(model, z, w, following, torch.ones(3), torch.zeros(3))
    assert gain.tolist() == pytest.approx([-1, 1, 1], abs=0.02) and offset.abs().max() < 0.02


def test_where_actions_hardly_vary_a_gain_is_believed_rather_than_an_offset(model):
    z = torch.softmax(torch.randn(12, 4, 4), -1).flatten(1)
    w = 0.8 + 0.1 * torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    following = model.step(z, executed(w, torch.tensor([[1.0, 1.0, -1.0]]), torch.zeros(1, 3)))[0]
    following = following + 0.01 * torch.randn(12, 16, generator=torch.Generator().manual_seed(0))
    gain, offset, left = identify(model, z, w, following, torch.ones(3), torch.zeros(3))
    assert gain.tolist() == pytest.approx([1, 1, -1], abs=0.1) and not offset.any() and left < 0.1


def test_a_corrected_model_imagines_what_its_body_does_each_body_by_itself(model):
    gain, offset = torch.tensor([[-1.0, 0.5, 0.0], [1.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.2, 0.0], [0.0, 0.0, 0.0]])
    corrected = Corrected(model, gain, offset)
    z = torch.softmax(torch.randn(6, 4, 4), -1).flatten(1)
    w = 2 * torch.rand(6, 3) - 1
    sent = torch.cat([w[:3] * gain[0] + offset[0], w[3:]])
    for mine, own in zip(corrected.step(z, w), model.step(z, sent), strict=True):
        assert torch.equal(mine, own)
    wanted = model.policy(z).mode
    done = executed(corrected.policy(z).mode, gain, offset)
    shift, reach = (each.repeat_interleave(3, 0) for each in (offset, gain.abs()))
    can = (wanted - shift).abs() < reach
    assert torch.allclose(done[can], wanted[can], atol=2e-3) and can[:3, :2].any() and can[3:].all()
    assert (corrected.policy(z).mode[:3, 2] == 0).all()  # a dead one rests
    plain = Corrected(model, torch.ones(2, 3), torch.zeros(2, 3))
    seen = Observation.of(model.senses, {"observation.state": torch.randn(2, 3)})
    plans = [Planner(m, 0.99, CONFIG).plan(seen, None, torch.Generator().manual_seed(0)) for m in (model, plain)]
    assert torch.allclose(plans[0].tokens, plans[1].tokens, atol=1e-4)


REACH = 5
"""The decision by which good episodes of `alarms` are half-way."""


def alarms(behind, length=40):
    """Bands of an agent that is surprised by nothing, and that is `behind` with its rewards, or never."""
    goes = tuple((-50.0 if at < REACH else -100.0) if behind else 100.0 for at in range(length))
    flat = (1.0,) * length
    bands = {"surprise": Band((-15.0,) * length, flat, 1.0), "schedule": Band(goes, flat, 1.0)}
    return Alarms(bands, "", "", "", 0.05, 80, 80)


LATE = Band((-20.0,) * 20 + (-100.0,) * 20, (1.0,) * 40, 1.0)
"""A schedule that good episodes are half-way of after 20 decisions."""


class Acted(Agent):
    """An agent in one environment, whose world is its model, with actuators of `gain`; it acts at random."""

    def __init__(self, model):
        self.world, self.model, self.planner = model, model, Planner(model, 0.99, CONFIG)
        self.curve, self.td_check, self.gain = SimpleNamespace(length=1, action_size=3), None, torch.ones(1, 3)
        self.drawn = torch.Generator().manual_seed(3)
        self.at = self.until = torch.ones(1, dtype=torch.long)
        self.seen = Observation.of(model.senses, {"observation.state": torch.zeros(1, 3)})
        self.z = model.encode(self.seen)

    def act(self, observation, own=None):
        self.plan, self.decision, self.planned = None, None, own
        if not bool(own.all()):
            return torch.full((1, 3), 9.0)  # arbitrary
        token = 2 * torch.rand(1, 3, generator=self.drawn) - 1
        self.plan, self.decision = SimpleNamespace(latent=self.z), SimpleNamespace(tokens=token[None], imagined=None)
        self.z = self.world.step(self.z, executed(token, self.gain, torch.zeros(1, 3)))[0]
        return token


@torch.no_grad()
def climbed(model, ladder, gain=(1.0, 1.0, 1.0), decisions=80, at=6, agent=None, later=None):
    """Let an agent act, whose actuators have this gain from decision `at` on, and another one `later`, from 30 on.

    Returns it, its actions, its planners.
    """
    agent, actions, planners = agent or Acted(model), [], []
    ladder.begin(1)
    for step in range(decisions):
        agent.gain = torch.tensor([later if later and step >= 30 else gain if step >= at else (1.0, 1.0, 1.0)])
        actions.append(ladder.act(agent, agent.seen, torch.ones(1, dtype=torch.bool))[0])
        planners.append(agent.planner)
        ladder.look(agent, np.array([True]))
    return agent, torch.stack(actions), planners


def rungs(ladder):
    return [step.rung for step in ladder.steps]


def test_a_flipped_actuator_is_noticed_identified_and_planned_with_and_the_next_episode_begins_whole(model):
    ladder = Ladder(alarms(behind=False))
    agent, _, _ = climbed(model, ladder, (1.0, -1.0, 1.0))
    noticed, mended = ladder.steps
    assert (noticed.rung, mended.rung) == (IDENTIFY, IDENTIFY) and noticed.decision <= 9 and mended.decision <= 17
    assert "does not answer" in noticed.why and "-1.00+0.00" in mended.why
    assert agent.planner.model is agent.model and agent.model.gain[0].tolist() == pytest.approx([1, -1, 1], abs=0.05)
    assert ladder.newest(0) == f"identify: {mended.why}"
    assert ladder.rows[0][-1][0] < np.log(TINY) + 1  # nothing surprises any more
    assert ladder._cases[0].clock == 80 - mended.decision - 1  # it has as much time again
    agent, _, planners = climbed(model, ladder, agent=agent)
    assert len(ladder.steps) == 2 and {each.model for each in planners} == {model} and not ladder.newest(0)


def test_a_mended_body_is_followed_where_it_changes_little_and_a_whole_one_is_left_alone(model):
    ladder = Ladder(alarms(behind=False))
    agent, _, _ = climbed(model, ladder, (1.0, -1.0, 1.0), later=(1.0, -0.94, 1.0), decisions=120)
    assert agent.model.gain[0].tolist() == pytest.approx([1, -0.94, 1], abs=0.02)
    assert climbed(model, Ladder(alarms(behind=False)), (1.0, 0.94, 1.0))[0].model is model


def test_a_mended_body_goes_towards_what_is_fitted_later_by_small_steps_where_that_explains_little(model, monkeypatch):
    fits = iter([(-0.6, 0.1), (-0.8, 0.9), *[(-0.8, 0.2)] * 20])  # a gain, and the share of the error that it leaves
    given = lambda *_: (torch.tensor([1.0, (fit := next(fits))[0], 1.0]), torch.zeros(3), fit[1])  # noqa: E731
    monkeypatch.setattr("policies.ladder.identify", given)
    ladder, gains = Ladder(alarms(behind=False)), []
    agent = climbed(model, ladder, (1.0, -1.0, 1.0), decisions=16)[0]
    for _ in range(3):
        with torch.no_grad():
            for _ in range(9):
                ladder.act(agent, agent.seen, torch.ones(1, dtype=torch.bool))
                ladder.look(agent, np.array([True]))
        gains.append(round(float(ladder._gain[0, 1]), 2))
    assert gains[0] == -0.7 and gains[-1] == -0.8 and len(ladder.steps) == 2


def test_where_nothing_is_wrong_nothing_happens_and_a_body_that_does_not_answer_gets_no_time(model):
    quiet = Ladder(alarms(behind=False))
    assert climbed(model, quiet)[0].planner.model is model and not quiet.steps
    waits, after = [], []
    for gain in ((1.0, -1.0, 1.0), (0.0, 0.0, 0.0), (-0.4, -0.4, -0.4)):
        ladder = Ladder(replace(alarms(behind=True), bands=alarms(behind=True).bands | {"schedule": LATE}))
        climbed(model, ladder, gain, decisions=160)
        mended = next(step for step in ladder.steps if "planned with" in step.why)
        following = ladder.steps[ladder.steps.index(mended) + 1]
        waits.append(following.decision - mended.decision)
        after.append(following.rung)
    assert after == ["back off", "ask", "back off"]
    assert waits[0] - waits[1] > 1.5 * PATIENCE * len(LATE.mean)
    assert 2 < waits[2] / waits[0] < 3  # a weak body takes longer


def test_an_agent_that_stays_behind_climbs_to_the_end_each_rung_within_its_budget(model):
    asked = []
    ladder = Ladder(alarms(behind=True), undo=-1.0, ask=lambda question, choices: asked.append(question) or "")
    _, actions, _ = climbed(model, ladder)
    assert rungs(ladder) == ["identify", "back off", "ask", "stop"]
    times = dict(zip(rungs(ladder), (step.decision for step in ladder.steps), strict=True))
    assert times["identify"] == 2  # 1 - (1 - 1 / (REACH + 1)) ** 2 is more than a quarter of the way from -100 to 0
    assert times["back off"] == times["identify"] + 8
    back = times["back off"]
    assert len(ladder.rows[0]) == times["stop"] and not actions[times["stop"] + 10 :].any()  # else it does not decide
    assert torch.equal(actions[back : back + 10], -actions[back - 10 : back].flip(0))  # the way it came
    assert len(asked) == 1 and "did not help" in asked[0] and not actions[-5:].any()


def test_an_answer_goes_on_and_stop_stops(model):
    said = iter(["the drawer is open now", STOP])
    ladder = Ladder(alarms(behind=True), ask=lambda question, choices: next(said))
    climbed(model, ladder, decisions=200)
    assert rungs(ladder).count("ask") == 3 and ladder.steps[-1].why == "told to"
    assert any(step.why.endswith("the drawer is open now") for step in ladder.steps)


def test_where_several_guidances_may_be_meant_the_answer_is_followed_and_without_one_nothing_moves(model):
    asked, guided = [], []
    probes = Probes((), torch.zeros(0, 16), *torch.zeros(4, 0))
    options = {name: Guidance((), probes) for name in ("stand", "hang")}
    Acted.guide = lambda agent, chosen: guided.append(chosen)
    ladder = Ladder(NEVER, ask=lambda *given: asked.append(given) or "hang", options=options)
    agent, actions, _ = climbed(model, ladder)
    climbed(model, ladder, agent=agent)
    assert asked == [("what is meant?", ("stand", "hang", STOP))] and ladder.choices == (GO_ON, "stand", "hang", STOP)
    assert guided == [[(options["hang"], 1.0)]] and actions.any() and rungs(ladder) == ["ask"]
    for answer in ("", STOP, "fly"):
        ladder = Ladder(NEVER, ask=lambda *given, answer=answer: answer, options=options)
        _, actions, _ = climbed(model, ladder)
        assert not actions.any() and rungs(ladder) == ["stop"] and len(guided) == 1
    robot = Ladder(NEVER, ask=None, options=options)
    robot.ready(agent, True, True)
    assert robot.decided(agent)[:2] == ("ask", "what is meant?") and robot.choices[:2] == ("stand", "hang")
    robot.ready(agent, False, True, "stand")
    assert (robot._cases[0].rung, robot.choice, len(guided)) == ("", "stand", 2)


def tools(used, names="ab", act=lambda: None):
    """Tools that note their use."""
    plain = {"required": [], "properties": {}}
    return [Tool(name, "", plain, lambda n=name: (used.append(n), act()) and "done") for name in names]


def test_tools_are_used_one_after_another_before_somebody_is_asked_and_what_they_brought_is_noted(model):
    used = []
    ladder = Ladder(alarms(behind=True), tools=tools(used))
    climbed(model, ladder, decisions=200)
    assert used == ["a", "b"] and rungs(ladder)[-3:] == ["tool", "ask", "stop"]
    said = [step.why for step in ladder.steps if "done" in step.why]
    assert said == [f"{name}: done (100% of what is missing expected of it)" for name in "ab"]
    (a,), (b,) = ladder.uses.all["a"], ladder.uses.all["b"]
    assert abs(a[1]) < 0.1 and abs(b[1]) < 0.1 and len(a[0]) == 32  # changes and errors of 16 numbers
    for known in (0, 1):
        used.clear()
        fresh = Ladder(alarms(behind=True), tools=tools(used))
        fresh.uses.tried.update(a=1 - known, b=known)
        fresh.uses.all |= {"a": [[]] * known}
        climbed(model, fresh, decisions=200)
        assert used == ["b", "a"] and fresh.uses.tried.total() == 3  # so that each is tried early
    for order in (["b", "a"], []):  # the other in either situation, then none, as neither pays
        used.clear()
        ladder = Ladder(alarms(behind=True), tools=tools(used), uses=Uses(ladder.uses.all))
        climbed(model, ladder, decisions=200)
        assert used == order and rungs(ladder)[-2:] == ["ask", "stop"]


def test_of_two_tools_that_pays_more_where_the_world_answered_so_is_used_and_the_body_then_thought_whole(model):
    used, believed, still = [], [], (0.0, 0.0, 0.0)
    first = Ladder(alarms(behind=True), tools=tools([]))
    climbed(model, first, still, decisions=200)
    here = first.uses.all["a"][0][0]
    for gains, order in (((0.8, 0.3), ["a"]), ((0.3, 0.8), ["b"]), ((0.2, 0.1), [])):
        used.clear()
        known = Uses({name: [(here, gain)] * 20 for name, gain in zip("ab", gains, strict=True)})
        ladder = Ladder(alarms(behind=True), tools=tools(used), uses=known)
        climbed(model, ladder, still, decisions=200)
        assert used[:1] == order
    ladder = Ladder(alarms(behind=True), tools=tools(used, "a", lambda: believed.append(ladder._gain[0].tolist())))
    whole = [planner.model is model for planner in climbed(model, ladder, still, decisions=200, at=0)[2]]
    assert max(believed[0]) < 0.1 and any(whole[whole.index(False) :])


def test_after_a_while_without_an_alarm_it_begins_at_the_first_rung_again(model):
    ladder = Ladder(alarms(behind=False), first=lambda episode: 4)
    climbed(model, ladder, decisions=QUIET)
    assert rungs(ladder) == [IDENTIFY] and ladder.steps[0].decision == 5
    assert ladder._cases[0].taken == [IDENTIFY]
    climbed(model, ladder, decisions=QUIET + 20)
    assert ladder.steps[-1].episode == 1
