"""How often chance alone, without learning, finds a reward of cartpole-swingup-sparse: CSV on stdout.

    python tests/bench/chance_of_reward.py

An episode is 500 decisions; in tokens of `length` the noise is drawn for their ends, with a straight line between.
"""

import numpy as np
import torch

from envs.make import make
from envs.settings import TaskConfig
from policies.noise import Noise

TASK, EPISODES, DECISIONS = "cartpole-swingup-sparse", 60, 500
WAYS = [
    *[("white", deviation, 1) for deviation in (0.5, 1.0)],
    *[("pink", deviation, 1) for deviation in (0.5, 1.0, 2.0)],
    *[("white", deviation, 4) for deviation in (0.5, 1.0, 3.0)],
]


def actions(noise: Noise, deviation: float, length: int) -> np.ndarray:
    """Those (DECISIONS,) of an episode."""
    ends = np.array([noise.draw(1, 1).item() for _ in range(DECISIONS // length + 2)])
    return np.interp(np.arange(DECISIONS) / length, np.arange(len(ends)), (deviation * ends).clip(-1, 1))


def main() -> None:
    """Print a row for each way to explore."""
    env = make(TaskConfig(TASK))
    print("noise,deviation,length,episodes,found,mean_return")
    for colour, deviation, length in WAYS:
        noise, returns = Noise(colour, torch.Generator().manual_seed(1)), []
        for episode in range(EPISODES):
            env.reset(seed=episode)
            taken = actions(noise, deviation, length)
            returns.append(sum(float(env.step(np.array([a], np.float32))[1]) for a in taken))
        found = sum(r > 0 for r in returns)
        print(f"{colour},{deviation},{length},{EPISODES},{found},{np.mean(returns):.2f}", flush=True)


if __name__ == "__main__":
    main()
