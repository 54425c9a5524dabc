"""A tiny checkpoint from end to end: it drives the simulated arm, and records it."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

from policies.guidance.storage import GuidanceSpec, Reading, save_guidance, sum_of_model
from policies.settings import GuidanceKeys
from worldmodel.guidance import Guidance
from worldmodel.probes import Probes
from worldmodel.settings import Term

HEADER = {"success_rate", "episodes", "control_hz", "missed_deadlines", "p99_jitter_ms", "plan_ms_p50", "plan_ms_p99"}


@pytest.fixture
def run(arm_checkpoint, serving):
    """Runs the checkpoint on an arm, planned for by a thread."""
    from configs.arm.running import RunSession
    from robot.settings import RunConfig

    usual = {"viewer": "none", "checkpoint": str(arm_checkpoint), "remote": serving(arm_checkpoint)}

    def result(**keys) -> dict:
        return RunSession.begin(RunConfig(**usual | keys)).run()

    return result


def test_on_the_simulated_arm_every_episode_is_run_and_the_line_says_how(run):
    result = run(episodes=2, seconds=1.0)
    assert set(result) >= HEADER
    assert (result["ended"], result["driver"]) == ("done", "semagram_so101_sim")
    assert (result["episodes"], result["faults"]) == (2, [])
    assert result["plans"] >= 2 and 0 <= result["success_rate"] <= 1
    assert result["mean_squared_jerk"] > 0
    assert 0 < result["largest_step_deg"] <= 3.01 * 115 / 30  # the gripper's, thrice its range in a second
    json.dumps(result)


def test_alarms_are_made_on_an_arm_and_the_ladder_that_needs_them_acts(arm_checkpoint, tmp_path, monkeypatch):
    """Of an agent that has learned nothing, and is thus surprised by all."""
    import configs.arm.running
    from envs.state_estimator import StateEstimator
    from policies.alarms import Alarms
    from robot.settings import RunConfig
    from worldmodel.errors import UserError

    checkpoint, keys = tmp_path / "run", {"viewer": "none", "episodes": 1, "seconds": 1.0}
    shutil.copytree(arm_checkpoint, checkpoint)
    session = configs.arm.running.RunSession
    with pytest.raises(UserError, match=r"ladder=true: no alarms-so101-sim\.json in .*calibrate=100"):
        session.begin(RunConfig(checkpoint=str(checkpoint), ladder=True, **keys)).run()
    monkeypatch.setattr(StateEstimator, "success", lambda self: True)
    assert (
        session.begin(RunConfig(checkpoint=str(checkpoint), calibrate=6, false_alarms=0.5, **keys)).run()["ladder"]
        is None
    )
    alarms = Alarms.kept(checkpoint, "so101-sim")
    assert (alarms.episodes, alarms.task) == (6, "so101-touch") and Alarms.kept(checkpoint) is None
    low = replace(alarms.bands["surprise"], threshold=-99.0)
    replace(alarms, bands=alarms.bands | {"surprise": low}).keep(checkpoint, "so101-sim")
    result = session.begin(RunConfig(checkpoint=str(checkpoint), ladder=True, **keys)).run()
    assert result["ladder"][0]["why"].startswith("back off: ") and result["ladder"][0]["episode"] == 0


def test_of_joints_alone_and_without_reward_it_is_judged_by_what_it_is_told(untaught, tmp_path):
    """Through a planner process of its own; the task's own criterion never holds."""
    from configs.arm.running import RunSession
    from envs.settings import TaskConfig
    from robot.settings import RunConfig

    run = untaught(tmp_path / "run", TaskConfig("so101-move", state="joints", reward="none"))
    name = "shoulder_pan.pos"
    spec = GuidanceSpec("ahead", (Term(name, -90, 90),), 1.0, {}, sum_of_model(run), {name: Reading(1.0, -110, 110)})
    numbers = torch.zeros(1, 16), torch.zeros(1), torch.ones(1), -110 * torch.ones(1), 110 * torch.ones(1)
    save_guidance(tmp_path / "ahead", Guidance(spec.terms, Probes((name,), *numbers)), spec)
    keys = {"viewer": "none", "episodes": 1, "seconds": 0.5, "guidance": GuidanceKeys(str(tmp_path / "ahead"))}
    result = RunSession.begin(RunConfig(checkpoint=str(run), **keys)).run()
    assert (result["ended"], result["success_rate"], result["guidance_satisfied"]) == ("done", 1.0, 1.0)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ({}, r"^checkpoint=: it learned from recordings and has no task; lerobot-rollout"),
        ({"haste": 1}, r"^checkpoint=: task\.haste: no such key"),
        ({"max_control_steps": 5.5}, r"^checkpoint=: task\.max_control_steps=5\.5: a whole number"),
    ],
)
def test_a_checkpoint_without_a_task_of_ours_is_refused_in_one_line(run, arm_checkpoint, monkeypatch, task, says):
    import configs.arm.running
    import configs.runs.loading
    from policies.storage.checkpoint import read_spec
    from policies.storage.folders import FolderError

    found = read_spec(arm_checkpoint)
    other = replace(found, task=found.task | task if task else task)
    for module in (configs.arm.running, configs.runs.loading):
        monkeypatch.setattr(module, "read_spec", lambda path: other)
    with pytest.raises(FolderError, match=says):
        run()
    with pytest.raises(FolderError, match=says):
        configs.runs.loading.load_agent(arm_checkpoint)


@pytest.mark.parametrize("decisions", [0, 45, 10_000])
def test_an_episode_lasts_as_long_as_in_training(decisions):
    from configs.arm.running import RunSession
    from envs.make import make
    from envs.settings import TaskConfig
    from robot.settings import RunConfig

    task = TaskConfig("so101-touch", max_control_steps=decisions)
    assert RunSession(RunConfig(checkpoint="c", seconds=3.0), None, None, task).seconds == 3.0
    env = make(task)
    assert (
        RunSession(RunConfig(checkpoint="c"), None, None, task).seconds
        == env.metadata["episode_limit"] / task.control_hz
    )
    env.close()


def test_a_person_at_a_terminal_sees_the_rate_the_margins_and_the_token(run, capsys):
    run(episodes=1, seconds=1.0, viewer="terminal")
    lines = capsys.readouterr().err.splitlines()
    line, *_ = [line for line in lines if line.startswith("episode 1/1 ")]
    place = re.search(r"tip at \[(.*)\] m, [\d.]+ cm inside its box", line)[1]
    assert all(0 < abs(float(x)) < 0.5 for x in place.split(", "))
    kinds = re.findall(r"(\w+) \d+ % \(\w+\)", line.partition("least margins: ")[2])
    assert kinds == ["position", "rate", "acceleration", "step"]
    assert ": 2 × move(0.133 s) | " in line and re.search(r"\d Hz, tick late [\d.]+ ms", line)
    assert lines[-1] in ("episode 1: done", "episode 1: not done")


def test_it_records_in_the_task_and_at_the_rate_that_it_was_trained_for(arm_checkpoint, tmp_path):
    from configs.arm.recording import RecordSession
    from robot.settings import RecordConfig

    keys = RecordConfig(
        dataset=str(tmp_path / "d"), driver="policy", checkpoint=str(arm_checkpoint), episodes=1, seconds=0.5
    )
    with pytest.raises(ValueError, match=r"for task=so101-touch at 30\.0 Hz, not so101-touch at 20 Hz"):
        RecordSession(replace(keys, control_hz=20)).run()
    assert not list(tmp_path.iterdir())
    recorded = RecordSession(keys).run()
    assert (recorded["frames"], recorded["by"], recorded["tasks"]) == (15, {"policy": 1}, {"Touch the red cube.": 1})
