"""Behaviour cloning of a recording of the SO-101 in simulation: two layers of 256, absolute error, averaged weights.

Evaluated as by `semagram-eval`:

    python tests/bench/cloning.py <dataset> so101-pick-lift <seeds> <updates> [turns] [copies=0] [other keys]

The keys are those of `semagram-train data=`, whose copies it learns from. `turns`: besides the state, it gets what the
hand sees of the object (`worldmodel.encoder.seen_from`).
"""

import copy
import math
import sys
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from configs.arguments import named
from configs.runs.recordings import adapted, recorded
from configs.schema import TrainConfig
from configs.train import composed_or_refused
from envs.make import make_vector
from policies.training.rollouts import HELD_S, evaluation_seeds
from worldmodel.encoder import seen_from
from worldmodel.senses import STATE_KEY
from worldmodel.strict import build

EPISODES, TOGETHER, SEED = 60, 20, 100
WIDTH, BATCH, RATE, AVERAGED = 256, 256, 1e-3, 1000

Features = Callable[[Float[Tensor, "B S"]], Float[Tensor, "B F"]]


def turned(labels: list[str]) -> Features:
    """Return what adds to states with these labels what `turns` says."""
    hand, thing = ([labels.index(f"{part}_pose[{i}]") for i in range(7)] for part in ("end_effector", "object"))

    def features(state: Float[Tensor, "B S"]) -> Float[Tensor, "B F"]:
        return torch.cat([state, seen_from(state[:, hand], state[:, thing])], 1)

    return features


def cloned(x: Float[Tensor, "N F"], y: Float[Tensor, "N A"], seed: int, updates: int) -> nn.Module:
    """Return the network, its weights averaged, after so many updates."""
    torch.manual_seed(seed)
    sizes = x.shape[1], WIDTH, WIDTH
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.LayerNorm(b), nn.SiLU())]
    net = nn.Sequential(*layers, nn.Linear(WIDTH, y.shape[1]), nn.Tanh())
    mean, optimiser = copy.deepcopy(net), torch.optim.Adam(net.parameters(), RATE)
    for update in range(1, updates + 1):
        batch = torch.randint(len(x), (BATCH,))
        loss = (net(x[batch]) - y[batch]).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for average, newest in zip(mean.parameters(), net.parameters(), strict=True):
                average.lerp_(newest, max(1 / update, 1 / AVERAGED))
    return mean


@torch.no_grad()
def main(dataset: str, name: str, seeds: int, updates: int, turns: bool, keys: list[str]) -> None:
    """Print how often each seed's network succeeds at any step, and at the end."""
    words = [f"data={dataset}", f"task={name}", "envs=0", "token=step", *keys]
    for seed in range(1, seeds + 1):
        own = [*words, f"seed={seed}"]
        config = build(TrainConfig, adapted(composed_or_refused("train", own), named(own)))
        env = make_vector(config.task, TOGETHER, processes=False)
        extended: Features = turned(env.metadata["labels"]) if turns else lambda state: state
        known = recorded(config, {STATE_KEY: env.single_observation_space[STATE_KEY].shape})
        good = [each for each in (*known.shown, *known.nearby) if each.imitated.all()]
        x = torch.cat([extended(each.observation.values[STATE_KEY][:-1].double()) for each in good])
        mean, scale = x.mean(0), (x.var(0) + 1e-4).rsqrt()
        y = torch.cat([each.action if each.wanted is None else each.wanted for each in good])
        with torch.enable_grad():
            net = cloned(((x - mean) * scale).clamp(-10, 10).float(), y, seed, updates)
        done, ends = list[bool](), list[bool]()
        for first in range(0, EPISODES, TOGETHER):
            seen, _ = env.reset(seed=evaluation_seeds(SEED, first, TOGETHER))
            ever, held = np.zeros(TOGETHER, bool), np.zeros(TOGETHER, int)
            for _ in range(env.metadata["episode_limit"]):
                state = extended(torch.from_numpy(seen[STATE_KEY]).double())
                seen, *_, info = env.step(net(((state - mean) * scale).clamp(-10, 10).float()).numpy())
                now = info["is_success"].astype(bool)
                ever, held = ever | now, np.where(now, held + 1, 0)
            done += ever.tolist()
            ends += (held >= math.ceil(HELD_S * config.task.arm.control_hz)).tolist()
        env.close()
        print(f"seed {seed}: success {np.mean(done):.2f}, at the end {np.mean(ends):.2f} of {EPISODES}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    more = sys.argv[5:]
    main(*sys.argv[1:3], *map(int, sys.argv[3:5]), "turns" in more, [word for word in more if word != "turns"])
