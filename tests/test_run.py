"""semagram-run from end to end: a tiny checkpoint drives the simulated arm, and the twin through LeRobot's driver."""

import json

import pytest

HEADER = {"success_rate", "episodes", "control_hz", "missed_deadlines", "p99_jitter_ms", "plan_ms_p50", "plan_ms_p99"}


@pytest.fixture(scope="module")
def checkpoint(toys, tmp_path_factory):
    """An agent for so101-touch that has learned nothing."""
    from configs.assembly import Assembly, prepare  # noqa: PLC0415
    from configs.schema import TrainConfig  # noqa: PLC0415
    from envs.settings import TaskConfig  # noqa: PLC0415
    from policies.checkpoint import save_checkpoint  # noqa: PLC0415
    from worldmodel.settings import PlannerConfig  # noqa: PLC0415

    planner = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=2, horizon=2)
    config = TrainConfig(
        task=TaskConfig("so101-touch"),
        model=toys.tiny_config(token=toys.token_settings(4)),
        planner=planner,
        compile="false",
    )
    parts = Assembly(config, prepare(config))
    for _ in parts.trainer.run(30):  # at random
        pass
    path = save_checkpoint(tmp_path_factory.mktemp("run"), parts.identity(), parts.trainer, {}, 1)
    parts.close()
    return path


def run(checkpoint, **keys) -> dict:
    from configs.running import Running  # noqa: PLC0415
    from robot.running.settings import RunConfig  # noqa: PLC0415

    return Running.begin(RunConfig(str(checkpoint), viewer="none", **keys)).run()


def test_on_the_simulated_arm_every_episode_is_run_and_the_line_says_how(checkpoint):
    result = run(checkpoint, episodes=2, seconds=1.0)
    assert set(result) >= HEADER
    assert result["ended"] == "done"
    assert result["driver"] == "semagram_so101_sim"
    assert result["episodes"] == 2
    assert result["faults"] == []
    assert result["plans"] >= 2
    assert 0 <= result["success_rate"] <= 1
    json.dumps(result)
