"""How much of the state an eye can read off frames: R^2 of each component on held-out episodes, by updates.

python tests/bench/vision_probe.py [model.vision.patch] [model.vision.width] [lags, e.g. 0,2]

Cart-poles are put at random angles and rates and pushed at random; an `Eye` and a linear layer learn the state from
frames moved at random, as in training. A proxy, cheap enough to compare encoders before an agent is trained with one.
"""

import sys
import time

import numpy as np
import torch

from envs.make import make
from envs.senses import Senses
from envs.settings import TaskConfig
from worldmodel.settings import VisionConfig
from worldmodel.vision import Eye, patches, shift

EPISODES, HELD_OUT, STEPS, BATCH = 130, 30, 25, 128
NAMES = ("cart", "cos", "sin", "cart_rate", "pole_rate")


def scenes(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frames (N, H, W, 3), states (N, S) and each one's step in its episode (N,)."""
    env = make(TaskConfig("cartpole-swingup"), senses=Senses(("state", "images.main")))
    frames, states, steps = [], [], []
    physics = env.unwrapped.physics
    for episode in range(EPISODES):
        env.reset(seed=episode)
        with physics.reset_context():
            physics.data.qpos[:] = rng.uniform(-1.2, 1.2), rng.uniform(-np.pi, np.pi)
            physics.data.qvel[:] = rng.normal(size=2) * [0.5, 3]
        action = rng.uniform(-1, 1, 1).astype(np.float32)
        seen, *_ = env.step(action)
        for step in range(STEPS):
            frames.append(seen["observation.images.main"])
            states.append(seen["observation.state"])
            steps.append(step)
            action = np.clip(0.8 * action + 0.6 * rng.normal(size=1), -1, 1).astype(np.float32)
            seen, *_ = env.step(action)
    env.close()
    return torch.from_numpy(np.array(frames)), torch.from_numpy(np.array(states)), torch.tensor(steps)


def main(patch: int = 8, width: int = 64, lags: tuple[int, ...] = (0, 2), updates: int = 600) -> None:
    """Print a CSV: updates, R^2 of each component, seconds of CPU spent learning."""
    torch.set_num_threads(1)
    frames, states, steps = scenes(np.random.default_rng(0))
    states = (states - states.mean(0)) / (states.std(0) + 1e-3)
    learned, generator = (EPISODES - HELD_OUT) * STEPS, torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    eye = Eye(64, 64, VisionConfig(patch, width, lags), 256, torch.bfloat16)
    head = torch.nn.Linear(256, states.shape[1])
    optimiser = torch.optim.Adam([*eye.parameters(), *head.parameters()], 1e-3)

    def stacks(at: torch.Tensor) -> torch.Tensor:
        return torch.stack([frames[torch.maximum(at - lag, at - steps[at])] for lag in lags], 1)

    print("updates", *NAMES, "cpu_seconds", sep=",")
    tested, began = torch.arange(learned, len(frames)), time.process_time()
    for update in range(1, updates + 1):
        at = torch.randint(learned, (BATCH,), generator=generator)
        seen = patches(shift(stacks(at), 4, generator), patch)
        loss = (head(eye(seen)) - states[at]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if update % 300 == 0:
            with torch.no_grad():
                off = head(eye(patches(stacks(tested), patch))) - states[tested]
            found = 1 - off.square().mean(0) / states[tested].var(0)
            print(update, *(f"{x:.3f}" for x in found), f"{time.process_time() - began:.1f}", sep=",", flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*map(int, given[:2]), *[tuple(map(int, lags.split(","))) for lags in given[2:3]])
