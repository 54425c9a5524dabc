"""Prints what an update, a plan and a decision (plan, environment step, updates) cost.

    python tests/bench/speed.py [task=cheetah-run] [count=100]

Milliseconds on one thread, compiled and not, and GFLOP. The last line is one JSON object. Not a test.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from configs.runs.parts import build
from configs.schema import TrainConfig
from envs.settings import TaskConfig
from worldmodel.flops import plan_gflop, update_gflop
from worldmodel.losses import Batch
from worldmodel.mppi import WarmStart
from worldmodel.observation import FrameHistory
from worldmodel.senses import STATE_KEY

KINDS = ("update", "plan", "decision")
WARM_UP = 10


class Ours:
    """A training run just past its random steps, to be timed. The first repetition of each operation may compile."""

    def __init__(self, config: TrainConfig):
        self.parts = build(config)
        self.trainer, self.learner = self.parts.trainer, self.parts.trainer.learner
        while self.trainer.env_steps < (config.seed_steps + config.envs) * config.task.repeat:
            self.trainer.step()
        self.memory: WarmStart | None = None
        self.frames = FrameHistory(config.model.vision.frame_lags)
        shape, model = (config.learning.horizon, config.learning.batch_size), self.learner.model
        generator = torch.Generator().manual_seed(0)
        whole = (shape[0] + 1, shape[1])
        seen = model.preprocess(model.blank(whole[0] * whole[1])).map(lambda x: x.unflatten(0, whole))
        if STATE_KEY in seen.values:
            seen = seen.with_values({STATE_KEY: torch.randn(*whole, model.state_size, generator=generator)})
        self.batch = Batch(
            seen,
            torch.rand(*shape, model.points, generator=generator) * 2 - 1,
            torch.ones(shape),
            torch.ones(shape),
            torch.ones(shape),
            torch.zeros(shape[1], model.points),
            torch.zeros(shape[1]),
        ).to(self.parts.machine.device)

    def time(self, what: str, count: int) -> list[float]:
        """Time `count` repetitions of `what`: "update", "plan" or "decision". Returns the seconds of each.

        A decision is a plan, an environment step and its updates.
        """
        work = {"update": self._update, "plan": self._plan, "decision": self._decision}[what]
        return [_seconds(work) for _ in range(count)]

    def cost(self) -> dict:
        """Return the GFLOP of an update and of a plan, and the number of parameters."""
        planner = self.parts.config.planner
        gflop = {
            "update": round(update_gflop(self.learner), 4),
            "plan": round(plan_gflop(self.learner.model, self.learner.discount, planner), 4),
        }
        return {"gflop": gflop, "parameters": int(self.learner.flat.numel())}

    def close(self) -> None:
        """Close the environments."""
        self.parts.close()

    def _update(self) -> None:
        self.learner.update(self.batch, self.trainer.generator)

    def _plan(self) -> None:
        observation = self.frames.see(self.trainer.episodes.now.map(lambda x: x[:1]))
        planner = self.trainer.agent.planner
        assert planner is not None
        plan = planner.plan(observation, self.memory, self.trainer.generator)
        later = self.trainer.curve.advance(plan.tokens.cpu(), self.trainer.curve.length)
        self.memory = WarmStart.of(later.to(plan.tokens.device))

    def _decision(self) -> None:
        self.trainer.step()


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Return mean, median and 99th percentile in milliseconds."""
    values = 1000 * np.array(seconds)
    middle, high = np.percentile(values, (50, 99))
    return {"mean": round(float(values.mean()), 3), "p50": round(float(middle), 3), "p99": round(float(high), 3)}


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure, print, and print it as JSON."""
    keys = {"task": "cheetah-run", "count": "100"} | dict(pair.split("=", 1) for pair in sys.argv[1:])
    task, result, cost = TaskConfig(keys["task"]), {}, {}
    for name, compiled in (("compiled", "auto"), ("not compiled", "false")):
        ours = Ours(TrainConfig(task=task, compile=compiled))
        cost, result[name] = ours.cost(), {}
        for kind in KINDS:
            ours.time(kind, WARM_UP)
            ms = milliseconds(ours.time(kind, int(keys["count"])))
            gflop = cost["gflop"].get(kind, sum(cost["gflop"].values()))
            result[name][kind] = {**ms, "gflop": gflop, "gflop_per_second": round(1000 * gflop / ms["p50"], 1)}
            print(f"{name:<14}{kind:<8}{ms['p50']:>9.2f} ms (p99 {ms['p99']:.2f})  {gflop:.3f} GFLOP")
        ours.close()
    print(json.dumps({"task": task.label, "parameters": cost["parameters"], **result}))


if __name__ == "__main__":
    main()
