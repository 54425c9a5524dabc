"""How punctual the control loop is on the hardware twin: `python tests/bench/control_loop.py <checkpoint> [seconds]`.

Episodes of two seconds at the checkpoint's rate, with planning and without in alternation, `seconds` in all. Without
planning the same loop follows curves that need no thought: what is left then is the machine's own noise, the driver and
the twin. Each line: ticks, those late by more than 5 ms, jitter. The checkpoint is one of so101-touch; where its policy
presses on something until a joint stalls, the next episode has another twin (as after any fault).
"""

import json
import os
import runpy
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from configs.arm.planning import begin_of, planner_client
from configs.arm.twin_process import served
from configs.runs.loading import task_of
from envs.state_estimator import StateEstimator
from policies.storage.checkpoint import find_checkpoint, read_spec
from robot.arms import connect, gated, twin
from robot.drivers import PlanFollower, Plans
from robot.loop import Loop
from robot.settings import RunConfig
from robot.ticks import Ticks, hurry, no_collection
from sim.so101.joints import Units

EPISODE_S, LEAD = 2.0, 2
KINDS = ("with planning", "without")


def wave(length: int):
    """A planner that answers at once: a slow wave to and fro, so that the arm stays where it is."""
    arms = runpy.run_path(str(Path(__file__).parents[1] / "wired_arm.py"))
    action = lambda number, since: 0.1 if number // 4 % 2 else -0.1  # noqa: E731
    return arms["FakePlanner"](otherwise=0, action=action, length=length)


@dataclass
class Measured:
    """One kind of loop, over all the twins it was run on."""

    ticks: Ticks
    plans: list[Plans] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def row(self) -> dict:
        """What a line says of it."""
        times = {
            name: [ms for plans in self.plans for ms in getattr(plans, name)] or [np.nan]
            for name in ("plan_ms", "round_ms")
        }
        return {
            **self.ticks.summary(),
            "hz": self.ticks.mean_hz,
            "plans": sum(plans.count for plans in self.plans),
            "late_plans": sum(plans.late for plans in self.plans),
            **{f"{name}_p50_p99": np.percentile(ms, [50, 99]).round(2).tolist() for name, ms in times.items()},
            "faults": self.faults,
        }


def played(
    episodes: list[int], mirror: StateEstimator, lead: int, planners: dict, measured: dict[str, Measured]
) -> list[int]:
    """Play episodes on a new twin until one ends in a fault; those that are left."""
    with ExitStack() as stack:
        robot = gated(twin(stack.enter_context(served())), "trained")
        connect(robot)
        stack.callback(robot.disconnect)
        units, hz = Units(mirror.targets.low, mirror.targets.high), measured[KINDS[0]].ticks.hz
        loops = {kind: Loop(robot, units, measured[kind].ticks) for kind in KINDS}
        drivers = {kind: PlanFollower(mirror, planners[kind], hz, lead) for kind in KINDS}
        walk = Loop(robot, units, Ticks(hz))
        for kind in KINDS:
            measured[kind].plans.append(drivers[kind].plans)
            stack.callback(lambda kind=kind: measured[kind].faults.extend(loops[kind].faults))
        while episodes and robot.fault is None:
            kind = KINDS[episodes[0] % 2]
            mirror.lay_out(episodes[0])
            walk.move_to(mirror.start)
            loops[kind].moved()  # by the other loop: not to go on from where it sent the arm last
            drivers[kind].begin()
            loops[kind].episode(drivers[kind], round(EPISODE_S * hz), mirror.success)
            episodes = episodes[1:]
        if robot.fault is None:
            walk.move_to(mirror.start)  # not let go of where it presses on something
    return episodes


def main() -> None:
    """Print a line for each kind, and one for each fault before that on stderr."""
    path, seconds = find_checkpoint(Path(sys.argv[1])), float((sys.argv[2:] or ["120"])[0])
    identity = read_spec(path)
    task = task_of(identity)
    stack, begin = ExitStack(), begin_of(identity, task, LEAD)
    client = planner_client(
        stack, RunConfig(checkpoint=str(path), seed=0), path, begin, lambda line: print(line, file=sys.stderr)
    )
    client.connect()
    mirror, scheduling = StateEstimator(task), hurry()
    planners = dict(zip(KINDS, (client, wave(begin.every)), strict=True))
    measured = {kind: Measured(Ticks(task.control_hz)) for kind in KINDS}
    episodes = list(range(round(seconds / EPISODE_S)))
    try:
        with no_collection():
            while episodes:
                episodes = played(episodes, mirror, min(LEAD, begin.every), planners, measured)
    finally:
        for kind, one in measured.items():
            extra = {"scheduling": scheduling, "load": round(os.getloadavg()[0], 1)}
            print(json.dumps({"loop": kind, **one.row(), **extra}))
        stack.close()


if __name__ == "__main__":
    main()
