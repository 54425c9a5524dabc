"""How near an agent brings its tip to places that it is told, at once: each seed's start, told another seed's tip.

    python tests/bench/places.py <run trained without reward> [places=100] [seconds=3] [half=0.01] [task.start=rest]

A place is where the tip is when an episode with another seed begins (`task.start=anywhere`, the SO-101): within reach,
and never seen. It is told as `want='tip.x = .. +- half, ...'` with `fit=false`, and counts by the true distance at the
end. Prints a line a place, then the shares.
"""

import sys
from dataclasses import replace

import numpy as np
import torch

from configs.runs.guiding import Known
from configs.runs.loading import task_of
from configs.schema import GuideConfig
from envs.make import make_vector
from policies.agent import Agent
from policies.training.rollouts import evaluation_seeds, rollout
from worldmodel.guidance import Guidance
from worldmodel.settings import Term

TIP = "tip.x", "tip.y", "tip.z"
SEED, FROM = 7, 1000  # of the episodes; the first number of those whose tip is the place
NEAR_M = 0.01, 0.02, 0.03, 0.05


def main(run: str, keys: dict[str, str]) -> None:
    """Print the distance to each place, and the share within each of NEAR_M."""
    known = Known.of(GuideConfig(checkpoint=run, show="quantities"))
    spec, count, half = known.spec, int(keys.get("places", 100)), float(keys.get("half", 0.01))
    task = task_of(spec)
    names = [name for name in TIP if name in known.memory.names]
    elsewhere = make_vector(replace(task, start="anywhere"), 1, processes=False)
    env = make_vector(replace(task, start=keys.get("task.start", task.start)), 1, processes=False)
    steps = round(float(keys.get("seconds", 3)) * env.metadata["render_fps"])
    generator = torch.Generator().manual_seed(0)
    agent = Agent.acting(known.model, spec.planner, spec.discount, spec.sentences, generator)
    columns = [[*env.metadata["quantities"]].index(name) for name in names]
    found = []
    for number, seed in enumerate(evaluation_seeds(SEED, FROM, count)):
        _, info = elsewhere.reset(seed=[seed])
        place = np.asarray(info["quantities"])[0, columns]
        terms = tuple(Term(name, at - half, at + half) for name, at in zip(names, place.tolist(), strict=True))
        agent.forget()
        agent.guide([(Guidance(terms, known.foreseeing.chosen(names)), 1.0)])
        played = rollout(env, agent, SEED, steps, first=number, named=names)
        found.append(float(np.linalg.norm(played.quantities[0][-1] - place)))
        print(f"{number}: {np.round(place, 3)} {100 * found[-1]:.1f} cm", file=sys.stderr, flush=True)
    shares = {f"within {100 * near:g} cm": float(np.mean(np.array(found) <= near)) for near in NEAR_M}
    print(shares | {"median cm": round(100 * float(np.median(found)), 2), "places": count})


if __name__ == "__main__":
    main(sys.argv[1], dict(word.split("=", 1) for word in sys.argv[2:]))
