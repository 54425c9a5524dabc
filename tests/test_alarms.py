"""Laws of the alarms and of the faults that they are measured by."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from configs.command import composed
from configs.runs.evaluation import Evaluation
from configs.schema import EvaluateConfig
from envs.make import make
from envs.quantities import simulation
from envs.settings import KINDS, FaultConfig, TaskConfig
from policies.agent import Agent
from policies.alarms import FILE, GAUGES, TINY, WINDOW, Alarms, Band, Watch, least_episodes
from policies.storage.folders import FolderError
from worldmodel.errors import UserError
from worldmodel.strict import build

TASK = TaskConfig("cartpole-swingup", max_control_steps=12)


def walks(rng, count, length=30):
    """Gauges that drift and whose spread grows with time, of episodes of different lengths; some values unknown."""
    episodes = []
    for _ in range(count):
        values = np.cumsum(rng.standard_normal(int(rng.integers(length // 2, length + 1))))
        values[rng.random(len(values)) < 0.1] = np.nan
        episodes.append(values)
    return episodes


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_a_fresh_good_episode_raises_an_alarm_at_most_at_the_rate(rate):
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(60):
        band = Band.of(walks(rng, 80), rate)
        shares.append(np.mean([math.isfinite(band.first(each)) for each in walks(rng, 50)]))
    assert 0.4 * rate < np.mean(shares) < rate + 0.015  # neither too often nor never


def test_an_episode_that_leaves_the_band_raises_one_where_it_leaves_it():
    band = Band.of(walks(np.random.default_rng(1), 80), 0.05)
    assert band.first(np.zeros(30)) == math.inf and band.near(np.zeros(30)) < 1
    late = np.zeros(60)
    late[40:] = 1000.0  # longer than any before
    assert band.first(late) == 40 and band.near(late) > 1
    assert band.first(np.full(5, np.nan)) == math.inf


def test_however_alike_good_episodes_are_a_small_difference_is_no_alarm(monkeypatch):
    """Of errors of e^-9 and imagined rewards that rise from 0 to 2: four times as large, a quarter of 2 less."""
    monkeypatch.setattr("policies.alarms.sum_of_model", lambda checkpoint: "")
    rng, watch = np.random.default_rng(3), Watch()
    watch.rows = [[(-9 + d, d - 2 * t / 29) for t in range(30)] for d in 1e-3 * rng.standard_normal(100)]
    bands = Alarms.of(watch, None, 0.05, Path(), "", "").bands
    for gauge, usual, most in (("surprise", -9, math.log(4)), ("schedule", -2 * 15 / 29, 0.5)):
        assert not bands[gauge].over(usual + 0.9 * most, 15) and bands[gauge].over(usual + 1.1 * most, 15)


def test_too_few_good_episodes_are_refused_and_the_least_number_is_enough():
    rng = np.random.default_rng(2)
    for rate in (0.025, 0.05, 0.3):
        Band.of(walks(rng, least_episodes(rate)), rate)
        with pytest.raises(UserError, match=f"at least {least_episodes(rate)} for a rate"):
            Band.of(walks(rng, least_episodes(rate) - 2), rate)


class Acted(Agent):
    """An agent just after it acted."""

    def __init__(self, **parts):
        self.__dict__ |= parts


def acted(latents, tokens, planned):
    """An agent of two environments after each act; its model adds the token to the latent, and rewards its sum."""
    imagine = lambda z, w: (z + w, w.sum(-1), torch.ones(len(z)))  # noqa: E731
    parts = {"planner": SimpleNamespace(imagine=imagine), "curve": SimpleNamespace(length=1), "until": torch.ones(2)}
    for z, w, now in zip(latents, tokens, planned, strict=True):
        newest = {"plan": SimpleNamespace(latent=z), "decision": SimpleNamespace(tokens=w[None], imagined=None)}
        yield Acted(planned=torch.tensor(now), **newest, **parts)


def test_where_the_world_answers_as_imagined_nothing_surprises_and_else_by_the_square_of_the_error():
    steps, watch = 6, Watch()
    watch.begin(2)
    tokens = [torch.full((2, 4), float(t + 1)) for t in range(steps)]
    latents = [sum(tokens[:t], torch.zeros(2, 4)) for t in range(steps)]
    for z in latents[3:]:
        z[1] += 0.5 * z[1]  # from the third step on the second world answers otherwise
    for agent in acted(latents, tokens, [[True, True]] * steps):
        watch.look(agent, np.array([True, True]))
    surprise = watch.episodes("surprise")
    assert np.isnan(surprise[0][0]) and np.allclose(surprise[0][1:], math.log(TINY))
    assert np.allclose(surprise[1][1:3], math.log(TINY))
    assert surprise[1][3] == pytest.approx(math.log((1 - 1 / WINDOW) * TINY + (0.5 * 6) ** 2 / WINDOW), rel=1e-4)
    assert watch.episodes("schedule")[0][0] == -4.0


def test_only_decisions_of_running_episodes_are_read():
    watch = Watch()
    watch.begin(2)
    z, w = [torch.zeros(2, 4)] * 3, [torch.zeros(2, 4)] * 3
    planned = [[True, True], [False, True], [True, True]]
    for agent, running in zip(acted(z, w, planned), ([1, 1], [1, 1], [1, 0]), strict=True):
        watch.look(agent, np.array(running, bool))
    assert [len(each) for each in watch.episodes("surprise")] == [2, 2]
    watch.begin(1)
    assert [len(each) for each in watch.rows] == [2, 2, 0]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("start", "moved", "away")])
def test_a_body_breaks_at_its_step_and_a_reset_mends_it(kind):
    plain, broken = make(TASK), make(TASK, fault=FaultConfig(kind, 4))
    for _ in range(2):
        states = [[each.reset(seed=3)[0]["observation.state"] for each in (plain, broken)]]
        for _ in range(10):
            states.append([each.step(np.ones(1, np.float32))[0]["observation.state"] for each in (plain, broken)])
        same = [bool(np.array_equal(*pair)) for pair in states]
        assert all(same[:5]) and not any(same[5:])
    model, data = simulation(broken)
    if kind == "jam":
        assert abs(data.qvel[int(model.jnt_dofadr[model.actuator_trnid[0, 0]])]) < 1e-3
    for each in (plain, broken):
        each.close()


def test_a_body_that_starts_elsewhere_tells_so_at_once_and_goes_on_from_there():
    plain, moved = make(TASK), make(TASK, fault=FaultConfig("start"))
    for seed in (1, 2):
        usual, there = (each.reset(seed=seed)[0]["observation.state"] for each in (plain, moved))
        place = np.array(simulation(moved)[1].qpos)
        assert 0.01 < np.abs(place - simulation(plain)[1].qpos).max() < 0.4 and not np.array_equal(usual, there)
        assert there[0] == pytest.approx(place[0])  # of the cart
        for _ in range(3):
            assert not moved.step(np.zeros(1, np.float32))[3]
    for each in (plain, moved):
        each.close()


def test_a_thing_that_lies_free_is_moved_at_its_step_and_a_walker_has_none():
    for kind, far in (("moved", 0.08), ("away", 1.0)):
        env = make(TaskConfig("so101-touch"), fault=FaultConfig(kind, 2))
        env.reset(seed=1)
        model, data = simulation(env)
        free = int(model.jnt_qposadr[model.jnt_type == 0][0])
        places = [np.array(data.qpos[free : free + 2])]
        for _ in range(2):
            env.step(np.zeros(6, np.float32))
            places.append(np.array(data.qpos[free : free + 2]))
        env.close()
        assert np.abs(places[1] - places[0]).max() < 1e-3 and np.hypot(*(places[2] - places[1])) == pytest.approx(far)
    with pytest.raises(UserError, match=r"fault\.kind=moved: only where things lie free"):
        make(TASK, fault=FaultConfig("moved"))


def test_a_fault_needs_a_kind_that_there_is_and_a_simulation():
    for wrong, line in (
        ({"kind": "jams"}, "one of jam, flip, weak, load"),
        ({"at_step": 3}, "only with fault.kind="),
        ({"kind": "start", "at_step": 3}, "at_step=3: 0 with fault.kind=start"),
    ):
        with pytest.raises(UserError, match=line):
            build(FaultConfig, wrong)
    with pytest.raises(UserError, match=r"fault\.kind=jam: only where MuJoCo simulates motors"):
        make(TaskConfig("gym", "Pendulum-v1"), fault=FaultConfig("jam"))


def test_alarms_are_made_kept_and_used_by_an_evaluation(untaught, tmp_path):
    checkpoint = untaught(tmp_path / "run", TASK)
    plain = composed("evaluate", []) | {"checkpoint": str(checkpoint), "compile": "false", "episodes": 2}

    def evaluate(folder, **keys):
        return Evaluation.begin(build(EvaluateConfig, plain | keys)).run(tmp_path / folder)

    assert evaluate("before")["alarms"] is None
    with pytest.raises(UserError, match=r"4 good episodes of 4: at least 38 for a rate of 0\.1"):
        evaluate("few", calibrate=4, false_alarms=0.1)
    assert not (checkpoint / FILE).exists()
    made = evaluate("made", calibrate=10, false_alarms=0.4)
    assert made["episodes"] == 10 and set(made["alarms"]) == {*GAUGES, "any"}
    alarms = Alarms.kept(checkpoint)
    assert (alarms.episodes, alarms.rate, alarms.task) == (10, 0.4, "cartpole-swingup")
    broken = evaluate("broken", fault={"kind": "flip", "at_step": 1, "mended_by": ""})
    assert broken["fault"] == {"kind": "flip", "at_step": 1, "mended_by": ""}
    assert all(len(broken["alarms"][name]["near"]) == 2 for name in GAUGES)
    (checkpoint / FILE).write_text(json.dumps({"bands": {}}))
    with pytest.raises(FolderError, match=f"{FILE}: not alarms: .*calibrate="):
        evaluate("damaged")
