"""semagram-run from end to end: a tiny checkpoint drives the simulated arm, and the twin through LeRobot's driver."""

import json

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
