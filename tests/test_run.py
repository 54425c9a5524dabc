"""A tiny checkpoint from end to end: it drives the simulated arm, and records it."""

import json
from dataclasses import replace

import pytest

HEADER = {"success_rate", "episodes", "control_hz", "missed_deadlines", "p99_jitter_ms", "plan_ms_p50", "plan_ms_p99"}


def run(arm_checkpoint, **keys) -> dict:
    from configs.running import Running  # noqa: PLC0415
    from robot.running.settings import RunConfig  # noqa: PLC0415

    return Running.begin(RunConfig(str(arm_checkpoint), viewer="none", **keys)).run()


def test_on_the_simulated_arm_every_episode_is_run_and_the_line_says_how(arm_checkpoint):
    result = run(arm_checkpoint, episodes=2, seconds=1.0)
    assert set(result) >= HEADER
    assert result["ended"] == "done"
    assert result["driver"] == "semagram_so101_sim"
    assert result["episodes"] == 2
    assert result["faults"] == []
    assert result["plans"] >= 2
    assert 0 <= result["success_rate"] <= 1
    json.dumps(result)


def test_it_records_in_the_task_and_at_the_rate_that_it_was_trained_for(arm_checkpoint, tmp_path):
    from configs.recording import Recording  # noqa: PLC0415
    from robot.recording.settings import RecordConfig  # noqa: PLC0415

    keys = RecordConfig(str(tmp_path / "d"), by="policy", checkpoint=str(arm_checkpoint), episodes=1, seconds=0.5)
    with pytest.raises(ValueError, match=r"for task=so101-touch at 30\.0 Hz, not so101-touch at 20 Hz"):
        Recording(replace(keys, control_hz=20)).run()
    assert not list(tmp_path.iterdir())
    recorded = Recording(keys).run()
    assert (recorded["frames"], recorded["by"], recorded["task"]) == (15, "policy", "Touch the red cube.")
