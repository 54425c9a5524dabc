"""How near an agent brings its tip to places that it is told, at once: each seed's start, told another seed's tip.

    python tests/bench/places.py <run trained without reward> [places=100] [seconds=5] [half=0.01] [task.start=rest]
        [iterations=6] [samples=256] [twin=true]

A place is where the tip is when an episode with another seed begins anywhere (`task.start=anywhere`, the SO-101) but
where others rest, and touches nothing: within reach, and never seen. It is told as `want='tip.x = .. +- half, ...'`
with `fit=false`, and counts by the true distance at the end. Prints a line a place, then the shares. `iterations`,
`samples`: of the planner, if not as trained. `twin=true`: on the twin, behind the gate, from rest (`twin_task`).
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import islice

import mujoco
import numpy as np
import torch
from twin_task import Rehearsal

from configs.runs.guiding import Known
from configs.runs.loading import task_of
from configs.schema import GuideConfig
from envs.make import make_vector
from policies.agent import Agent
from policies.training.rollouts import evaluation_seeds, rollout
from sim.so101.joints import JOINTS
from sim.so101.tasks import ANYWHERE, REST
from worldmodel.guidance import Guidance
from worldmodel.settings import PlannerConfig, Term

TIP = "tip.x", "tip.y", "tip.z"
SEED, FROM, DRAWN = 7, 1000, 10_000  # of the episodes; the first number of those whose tip is the place; how many
APART_RAD = 0.2  # a joint's least angle from rest
NEAR_M = 0.01, 0.02, 0.03, 0.05


def places(rest, anywhere, columns: list[int]) -> Iterator[np.ndarray]:
    """Yield places (3,), in m, where the tip is at starts of `anywhere` that are none of `rest` and touch nothing."""
    rest.reset(seed=[SEED])
    posture = arm_of(rest).data.qpos.copy()
    for seed in evaluation_seeds(SEED, FROM, DRAWN):
        _, info = anywhere.reset(seed=[seed])
        data = arm_of(anywhere).data
        if not data.ncon and np.abs(data.qpos - posture).max() > APART_RAD:
            yield np.asarray(info["quantities"])[0, columns]


def arm_of(env):
    """Return the simulated arm of the only environment."""
    return env.envs[0].get_wrapper_attr("arm")


def in_simulation(env, agent: Agent, steps: int, names: list[str], guidance: Guidance, number: int) -> np.ndarray:
    """Return where the tip is, (3,) in m, after so many control steps of an episode under a guidance."""
    agent.forget()
    agent.guide([(guidance, 1.0)])
    env.envs[0].set_wrapper_attr("_max_episode_steps", steps + 1)  # an episode of the task is shorter
    played = rollout(env, agent, SEED, steps, first=number, named=names).quantities[0]
    if len(played) != steps:
        raise RuntimeError(f"an episode of {steps} control steps ended after {len(played)}")
    return played[-1]


def on_twin(run: str, planner: PlannerConfig, seconds: float) -> Callable[[Guidance, int], np.ndarray]:
    """Return what plays an episode under a guidance on the twin and returns where the tip is then, (3,) in m."""
    kept: list[Rehearsal] = []

    def reached(guidance: Guidance, number: int) -> np.ndarray:
        if not kept:
            kept.append(Rehearsal(run, "so101-move", {}))
            kept[0].service.agent.planner.config = planner
        twin = kept[0]
        scene = twin.scene
        twin.service.agent.guide([(guidance, 1.0)])
        if not twin.play(*evaluation_seeds(SEED, number, 1), seconds):
            print(f"{number}: {twin.robot.fault}", file=sys.stderr)
            kept.clear()
        scene.data.qpos[: len(JOINTS)] = twin.arm.data.qpos[: len(JOINTS)]
        mujoco.mj_kinematics(scene.model, scene.data)
        return scene.data.site("gripperframe").xpos.copy()

    return reached


def main(run: str, keys: dict[str, str]) -> None:
    """Print the distance to each place, and the share within each of NEAR_M."""
    known = Known.of(GuideConfig(checkpoint=run, show="quantities"))
    spec, count, half = known.spec, int(keys.get("places", 100)), float(keys.get("half", 0.01))
    names, task = [name for name in TIP if name in known.memory.names], task_of(spec)
    found = []
    with ExitStack() as opened:
        envs = {
            start: make_vector(replace(task, start=start, max_control_steps=0), 1, processes=False)
            for start in (REST, ANYWHERE)
        }
        for each in envs.values():
            opened.callback(each.close)
        env = envs[keys.get("task.start", task.start)]
        columns = [[*env.metadata["quantities"]].index(name) for name in names]
        told = [*islice(places(*envs.values(), columns), count)]
        seconds, planner = float(keys.get("seconds", 5)), spec.planner
        planner = replace(planner, **{each: int(keys[each]) for each in ("iterations", "samples") if each in keys})
        if keys.get("twin") == "true":
            reached = on_twin(run, planner, seconds)
        else:
            chance = torch.Generator().manual_seed(0)
            agent = Agent.acting(known.model, planner, spec.discount, spec.sentences, chance)
            reached = partial(in_simulation, env, agent, round(seconds * env.metadata["render_fps"]), names)
        for number, place in enumerate(told):
            terms = tuple(Term(name, at - half, at + half) for name, at in zip(names, place.tolist(), strict=True))
            tip = reached(Guidance(terms, known.foreseeing.chosen(names)), number)
            found.append(float(np.linalg.norm(tip - place)))
            print(f"{number}: {np.round(place, 3)} {100 * found[-1]:.1f} cm", file=sys.stderr, flush=True)
    shares = {f"within {100 * near:g} cm": float(np.mean(np.array(found) <= near)) for near in NEAR_M}
    print(shares | {"median cm": round(100 * float(np.median(found)), 2), "places": len(found)})


if __name__ == "__main__":
    main(sys.argv[1], dict(word.split("=", 1) for word in sys.argv[2:]))
