"""Plain behaviour cloning of a recording: two layers of 256, mean squared error on each step's action.

Evaluated as by `semagram-eval`: `python tests/bench/cloning.py <dataset> so101-pick-lift <seeds> <updates>`
"""

import sys

import numpy as np
import torch
from torch import nn

from configs.runs.recordings import as_recordings
from envs.make import make_vector
from envs.settings import TaskConfig
from policies.training.rollouts import HELD_S, evaluation_seeds
from worldmodel.senses import STATE_KEY

EPISODES, TOGETHER, SEED = 20, 10, 100


def cloned(x: torch.Tensor, y: torch.Tensor, seed: int, updates: int) -> nn.Module:
    """Return the network after so many updates of 256 steps each."""
    torch.manual_seed(seed)
    sizes = x.shape[1], 256, 256, y.shape[1]
    layers = [part for i in range(3) for part in (nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU())]
    net = nn.Sequential(*layers[:-1], nn.Tanh())
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(updates):
        batch = torch.randint(len(x), (256,))
        loss = (net(x[batch]) - y[batch]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


def main(dataset: str, name: str, seeds: int, updates: int) -> None:
    """Print how often each seed's network succeeds at any step, and at the end."""
    task = TaskConfig(name, reward="success")
    env = make_vector(task, TOGETHER, processes=False)
    senses = {STATE_KEY: env.single_observation_space[STATE_KEY].shape}
    good = [each for each in as_recordings(task, senses, [dataset], 4).shown if each.imitated.all()]
    x = torch.cat([each.observation.values[STATE_KEY][:-1] for each in good])
    mean, scale = x.mean(0), (x.var(0) + 1e-4).sqrt()
    actions = torch.cat([each.action for each in good])
    for seed in range(seeds):
        net, done, ends = cloned((x - mean) / scale, actions, seed, updates), [], []
        for first in range(0, EPISODES, TOGETHER):
            seen, _ = env.reset(seed=evaluation_seeds(SEED, first, TOGETHER))
            ever, held = np.zeros(TOGETHER, bool), np.zeros(TOGETHER, int)
            for _ in range(env.metadata["episode_limit"]):
                with torch.no_grad():
                    action = net((torch.from_numpy(seen[STATE_KEY]) - mean) / scale).numpy()
                seen, *_, info = env.step(action)
                now = info["is_success"].astype(bool)
                ever, held = ever | now, np.where(now, held + 1, 0)
            done += ever.tolist()
            ends += (held >= round(HELD_S * task.arm.control_hz)).tolist()
        print(f"seed {seed}: success {np.mean(done):.2f}, at the end {np.mean(ends):.2f} of {EPISODES}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:3], *map(int, sys.argv[3:5]))
