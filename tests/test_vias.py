"""Laws of via-points: candidates pass them as the closed form has it, an arm does in truth; without, all is as was."""

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import semagram
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class

from configs.arm.planning import planner_service
from envs import arm
from envs.make import make
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.guidance import wishes
from policies.guidance.storage import SPEC
from policies.guidance.vias import readings
from policies.settings import GuidanceKeys
from policies.tokens.curves import Curve
from robot import configuration_semagram  # noqa: F401  registers it
from robot.settings import ServeConfig
from worldmodel.errors import UserError
from worldmodel.guidance import Guidance
from worldmodel.mppi import Pins, condition
from worldmodel.observation import Observation
from worldmodel.planner import Planner, TDCheck
from worldmodel.probes import Probes
from worldmodel.senses import STATE_KEY
from worldmodel.settings import PlannerConfig, TokenConfig

JOINT, NONE = "shoulder_pan.pos", Probes((), torch.zeros(0, 1), *[torch.zeros(0)] * 4)
LINE = TokenConfig(4, 2, 1, joined=True)
PLANNING = PlannerConfig(samples=16, policy_samples=4, elites=4, horizon=3, td_check_steps=30)


def drawn(count, std, deviation):
    """Candidates of three tokens of four numbers in two searches, their deviations, and two readings."""
    g = torch.Generator().manual_seed(0)
    each = std * (0.5 + torch.rand(3, 2, 4, generator=g))
    candidates = (each[:, :, None] * torch.randn(3, 2, count, 4, generator=g)).clamp(-1, 1)
    value = torch.tensor([[0.9, -0.8], [2.0, 0.0]])
    pins = Pins(torch.randn(2, 2, 3, 4, generator=g), value, torch.full((2, 2), deviation))
    return candidates, each, pins, g


def test_candidates_pass_the_value_within_their_bounds_and_what_says_nothing_changes_nothing():
    candidates, std, pins, g = drawn(200, 0.7, 1e-4)
    held = condition(candidates, std, pins, g)
    both = [torch.einsum("bmtp,tbnp->bnm", pins.rows, each) for each in (candidates, held)]
    before, after = ((read - pins.value[:, None]).abs() for read in both)
    assert held.abs().max() == 1 and (after < 1e-3).float().mean() > 0.97 and before.median() > 1
    wide = pins._replace(deviation=torch.full((2, 2), 1e9))
    assert torch.allclose(condition(candidates, std, wide, g), candidates, atol=1e-6)
    assert torch.equal(condition(candidates, std, pins._replace(rows=0 * pins.rows), g), candidates)


def test_they_are_distributed_as_a_gaussian_is_when_it_is_conditioned():
    candidates, std, pins, g = drawn(40_000, 0.05, 0.03)
    held = condition(candidates, std, pins, g).movedim(0, 2).flatten(2).double()
    for b, w in enumerate(held):
        rows, prior = pins.rows[b].flatten(1).double(), torch.diag(std[:, b].flatten()).double().square()
        gain = prior @ rows.T @ torch.linalg.inv(rows @ prior @ rows.T + 0.03**2 * torch.eye(2).double())
        assert (w.mean(0) - gain @ pins.value[b].double()).abs().max() < 5 * std.max() / 200
        assert (torch.cov(w.T) - (prior - gain @ rows @ prior)).abs().max() < 1e-4


@pytest.mark.parametrize("joined", [False, True])
def test_readings_are_a_plans_actions_and_their_sums_in_what_is_chosen_of_it(joined, toys):
    curve = Curve.of_token(LINE, 1)
    model = toys.tiny_model(3, 2, token=replace(LINE, joined=joined))
    start, points = torch.full((model.shared,), 0.7), torch.rand(3, 2)
    whole = points.clone()
    for t in range(3):
        whole[t] = model.token(points[t], model.ends(whole[t - 1]) if t else start)
    actions = curve.actions(whole, 12)[:, 0]
    for summed, right in ((False, actions), (True, actions.cumsum(0))):
        rows, first = readings(curve, 3, summed, joined)
        read = (rows * points).sum((1, 2)) + first * 0.7 * joined
        assert torch.allclose(read, right, atol=1e-5) and bool((rows[:, :, 0] == 0).all()) == joined


@pytest.fixture(scope="module", params=["delta", "absolute"])
def env(request):
    with closing(make(TaskConfig("so101-move", state="joints", reward="none", control=request.param))) as made:
        yield made


def episode(env, toys, said, weight=1.0, token=LINE):
    """Where shoulder_pan's target and the joint are after 0.5 s, in degrees, and the actions of an untrained agent."""
    model = toys.tiny_model(env.observation_space[STATE_KEY].shape[0], 6 * token.control_points, token=token)
    agent = Agent.acting(model, PLANNING, 0.9, (), torch.Generator().manual_seed(0))
    for seed in (1, 2):  # the second episode has the clock of its own
        if said is not None and seed == 1:
            vias = arm.passed(wishes.parse_via(said, arm.POSITIONS), env, {}) if said else ()
            agent.guide([(Guidance((), NONE, vias=vias), 1.0)], weight)
        agent.reset(torch.ones(1, dtype=torch.bool))
        seen, actions = env.reset(seed=seed)[0], []
        for _ in range(15):
            state = torch.from_numpy(seen[STATE_KEY])[None]
            actions.append(agent.act(Observation.of(model.senses, {STATE_KEY: state}))[0].numpy())
            seen, *_ = env.step(actions[-1])
    targets = env.get_wrapper_attr("targets")
    now = np.array([env.get_wrapper_attr("target")[0], env.unwrapped.data.qpos[0]])
    return np.degrees(now - (targets.low + targets.high)[0] / 2), np.stack(actions)


@pytest.mark.parametrize("token", [LINE, TokenConfig(5, 3, 2)])
def test_an_untrained_arm_is_there_in_time(env, toys, token, monkeypatch):
    """Though its plans are worth nothing, so that the policy would take over wherever no via-point is near."""
    monkeypatch.setattr(TDCheck, "failed", lambda check, returns, due: due)
    for want in (-12.0, 9.0):
        (target, joint), _ = episode(env, toys, f"{JOINT} = {want} +- 1 at 0.5 s", token=token)
        delta = env.get_wrapper_attr("targets").control == "delta"  # else the target may jump, and the joint lags
        assert abs(target - want) < 1 and (abs(joint - want) < 3 or not delta)


def test_a_search_of_ones_own_does_not_keep_to_it_and_says_so(toys):
    model, pins = toys.tiny_model(3, 4), Pins(torch.ones(1, 1, 3, 4), torch.zeros(1, 1), torch.ones(1, 1))
    planner = Planner(model, 0.9, PLANNING)
    planner.algorithm = lambda *given: None
    with pytest.raises(UserError, match="only mppi keeps to a via"):
        planner.plan(model.blank(1), None, torch.Generator(), pins=pins)


def test_without_one_or_without_weight_or_far_ahead_it_is_the_agent_as_it_was_to_the_bit(env, toys):
    _, own = episode(env, toys, None)
    for said, weight in (("", 1.0), (f"{JOINT} = 9 +- 1 at 0.5 s", 0.0), (f"{JOINT} = 9 +- 1 at 1.9 s", 1.0)):
        assert np.array_equal(episode(env, toys, said, weight)[1], own)
    assert not np.array_equal(episode(env, toys, f"{JOINT} = 9 +- 1 at 0.5 s")[1], own)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (f"{JOINT} = 20 +- 2", r"not of the form name = 20 \+- 2 at 1\.0 s"),
        ("shoulder.pos = 20 +- 2 at 1 s", "'shoulder.pos = 20.*no such joint; there are shoulder_pan.pos, "),
        (f"{JOINT} = 20 rad +- 2 at 1 s", "is in deg, not rad"),
        (f"{JOINT} = 20 +- 0 at 1 s", "numbers above 0"),
        (f"{JOINT} = 20 +- 2 at 1 m", "in s: numbers above 0"),
        (f"{JOINT} = 200 +- 2 at 1 s", "its range is -110 to 110"),
        (f"{JOINT} = 20 +- 2 at 3 s", "an episode lasts 2 s"),
        (f"{JOINT} = 60 +- 2 at 0.1 s", r"53 from where episodes begin, and it moves at most 14\.3"),
        (f"{JOINT} = 2 +- 2 at 1 s, {JOINT} = 60 +- 2 at 1.1 s", "54 from 1 s"),
    ],
)
def test_what_cannot_be_passed_is_refused_in_one_line(env, said, why):
    with pytest.raises(UserError, match=f"^via=: .*{why}") as refused:
        arm.passed(wishes.parse_via(said, arm.POSITIONS), env, {JOINT: (-5.0, 5.0)})
    assert "\n" not in str(refused.value)


def test_the_command_keeps_it_and_everybody_follows_it(arm_checkpoint, command, tmp_path):
    run, said = f"checkpoint={arm_checkpoint}", f"{JOINT} = 3 +- 2 at 0.4 s, gripper.pos = 5 +- 4 at 0.4 s"
    code, out, err = command("guide", run, f"via={said}", "out=g")
    assert code == 0, err
    sentence = f"pass {JOINT} = 3 ± 2 deg at 0.4 s, pass gripper.pos = 5 ± 4 at 0.4 s"
    assert json.loads(out.splitlines()[-1])["sentence"] == sentence
    assert json.loads((tmp_path / "g" / SPEC).read_text())["vias"][1]["said"] == "gripper.pos = 5 ± 4 at 0.4 s"
    agent = semagram.load(arm_checkpoint)
    agent.guide(tmp_path / "g")
    assert [via.step for via in agent.loaded.agent.vias.each] == [12, 12] and agent.loaded.agent.model is agent.model
    keys = GuidanceKeys(str(tmp_path / "g"))
    service = planner_service(ServeConfig(checkpoint=str(arm_checkpoint), guidance=keys))
    service.answer(replace(service.blank(), frame=7))
    assert service.agent.vias.clock.tolist() == [7] and bool(service.agent.vias.pinned.all())
    assert sentence in command("guide", run, "show=g")[1] and command("guide", run, f"via={said}", "show=g")[0] == 2
    config = PreTrainedConfig.from_pretrained(arm_checkpoint, cli_overrides=[f"--guidance={tmp_path / 'g'}"])
    policy = get_policy_class("semagram").from_pretrained(arm_checkpoint, config=config)
    with pytest.raises(ValueError, match="a chunk does not know how long ago"):
        policy.predict_action_chunk({})
