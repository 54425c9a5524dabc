"""How punctual the control loop is on the hardware twin: `python tests/bench/control_loop.py <checkpoint> [seconds]`.

Episodes of ten seconds at the checkpoint's rate, with planning and without in alternation, `seconds` in all. Without
planning the same loop follows curves that need no thought: what is left then is the machine's own noise, the driver and
the twin. Each line: ticks, those late by more than 5 ms, jitter. The checkpoint is one of so101-touch.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from configs.learned import task_of
from configs.planning import LocalPlanner
from configs.priority import hurry
from configs.running import begin_of
from configs.twin_process import TwinProcess
from envs.mirror import Mirror
from policies.checkpoint import find_checkpoint, read_identity
from policies.serving.link import Link
from robot.arms import connect, gated, twin
from robot.running.loop import Loop
from robot.running.view import Nothing
from robot.ticks import Ticks, no_collection
from robot.units import Units

EPISODE_S, LEAD = 10.0, 2


class Thoughtless:
    """Answers at once: a slow wave to and fro, so that it stays where it is."""

    def __init__(self, length: int):
        self._length, self._number, self._ready = length, 0, []

    def ask(self, _state, _fresh, _frames, _there) -> int:
        """The next part of the wave."""
        self._number += 1
        sign = 1 if self._number // 4 % 2 else -1
        self._ready = [
            SimpleNamespace(number=self._number, plan_ms=0.0, actions=np.full((self._length, 6), 0.1 * sign))
        ]
        return self._number

    def awaits(self, _number: int) -> bool:
        """Always."""
        return True

    def poll(self) -> list:
        """It."""
        ready, self._ready = self._ready, []
        return ready

    def gone(self) -> str:
        """Never."""
        return ""


def main() -> None:
    """Print a line for each kind, and one for each episode before that on stderr."""
    path, seconds = find_checkpoint(Path(sys.argv[1])), float((sys.argv[2:] or ["120"])[0])
    identity = read_identity(path)
    task = task_of(identity)
    local, process = LocalPlanner(path, 0, "cpu", 1), TwinProcess()
    begin = begin_of(identity, task, LEAD)
    link = Link(local.reach, local.secret, begin, lambda line: print(line, file=sys.stderr), None, again=False)
    link.connect()
    mirror = Mirror(task)
    robot = gated(twin(process.port_file), "trained")
    scheduling = hurry()
    connect(robot)
    thinkers = {"with planning": link, "without": Thoughtless(begin.every)}
    units = Units(mirror.targets.low, mirror.targets.high)
    loops = {}
    for kind, thinker in thinkers.items():
        loops[kind] = Loop(robot, units, mirror, thinker, Ticks(task.control_hz), min(LEAD, begin.every), Nothing())
    walk = Loop(robot, units, mirror, link, Ticks(task.control_hz), 1, Nothing())
    try:
        with no_collection():
            for episode in range(round(seconds / EPISODE_S)):
                kind = list(loops)[episode % 2]
                mirror.lay_out(episode)
                walk.approach(mirror.start)
                loops[kind].episode(EPISODE_S)
                if robot.fault is not None:
                    print(f"{kind}: {robot.fault}", file=sys.stderr)
                    if not walk.recover():  # a joint that was stalled: what follows would be no loop at all
                        break
            walk.approach(mirror.start)  # not let go of where it presses on something
    finally:
        for kind, loop in loops.items():
            plans = loop.plans
            row = {"loop": kind, **loop.ticks.summary(), "hz": loop.ticks.mean_hz, "scheduling": scheduling}
            row |= {"plans": plans.count, "late_plans": plans.late, "faults": loop.faults}
            row |= {"plan_ms_p50_p99": np.percentile(plans.plan_ms or [np.nan], [50, 99]).round(2).tolist()}
            row |= {"round_ms_p50_p99": np.percentile(plans.round_ms or [np.nan], [50, 99]).round(2).tolist()}
            print(json.dumps(row | {"load": round(os.getloadavg()[0], 1)}))
        robot.disconnect()
        link.close()
        local.stop()
        process.stop()


if __name__ == "__main__":
    main()
