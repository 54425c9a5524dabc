"""How much of a task's state can be read off frames: R^2 of each component on held-out episodes, by updates.

python tests/bench/vision_probe.py TASK [seed] [model.vision.patch] [model.vision.width] [lags, e.g. 0,1]

Episodes are begun by the task and driven by slow noise; a `PatchEncoder` and a linear layer learn the state from frames
moved at random, as in training. Angles of the reacher's joints are told by their cosines and sines. A proxy, cheap
enough to compare encoders before an agent is trained with one.
"""

import sys
import time

import numpy as np
import torch

from envs.make import make
from envs.senses import Senses
from envs.settings import TaskConfig
from worldmodel.encoder import PatchEncoder, patches, shift
from worldmodel.settings import VisionConfig

EPISODES, HELD_OUT, STEPS, BATCH = 400, 80, 12, 128
ANGLES = {"reacher-easy": 2, "reacher-hard": 2}  # so many of the state's first numbers are angles


def scenes(task: str, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frames (N, H, W, 3), states (N, S) and each one's step in its episode (N,)."""
    env = make(TaskConfig(task), senses=Senses(("state", "images.main")))
    frames, states, steps = [], [], []
    size = env.action_space.shape
    for episode in range(EPISODES):
        seen, _ = env.reset(seed=episode)
        action = rng.uniform(-1, 1, size)
        for step in range(STEPS):
            frames.append(seen["observation.images.main"])
            states.append(seen["observation.state"])
            steps.append(step)
            action = np.clip(0.8 * action + 0.6 * rng.normal(size=size), -1, 1)
            seen, *_ = env.step(action.astype(np.float32))
    env.close()
    angles, rest = np.split(np.array(states), [ANGLES.get(task, 0)], 1)
    told = np.concatenate([np.cos(angles), np.sin(angles), rest], 1).astype(np.float32)
    return torch.from_numpy(np.array(frames)), torch.from_numpy(told), torch.tensor(steps)


def main(
    task: str, seed: int = 0, patch: int = 8, width: int = 64, lags: tuple[int, ...] = (0, 1), updates: int = 1200
) -> None:
    """Print a CSV: what was probed, updates, seconds of CPU spent learning, mean R^2, and that of each component."""
    torch.set_num_threads(1)
    frames, states, steps = scenes(task, np.random.default_rng(seed))
    states = (states - states.mean(0)) / (states.std(0) + 1e-3)
    learned, generator = (EPISODES - HELD_OUT) * STEPS, torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    encoder = PatchEncoder(64, 64, VisionConfig(patch, width, lags), 256, torch.bfloat16)
    head = torch.nn.Linear(256, states.shape[1])
    optimiser = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 1e-3)

    def stacks(at: torch.Tensor) -> torch.Tensor:
        return torch.stack([frames[torch.maximum(at - lag, at - steps[at])] for lag in lags], 1)

    print("task,seed,patch,width,lags,updates,cpu_seconds,mean,each")
    tested, began = torch.arange(learned, len(frames)), time.process_time()
    for update in range(1, updates + 1):
        at = torch.randint(learned, (BATCH,), generator=generator)
        seen = patches(shift(stacks(at), 4, generator), patch)
        loss = (head(encoder(seen)) - states[at]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if update % 600 == 0:
            with torch.no_grad():
                off = head(encoder(patches(stacks(tested), patch))) - states[tested]
            found = 1 - off.square().mean(0) / states[tested].var(0)
            what = task, seed, patch, width, " ".join(map(str, lags)), update, f"{time.process_time() - began:.1f}"
            print(*what, f"{found.mean():.3f}", " ".join(f"{x:.2f}" for x in found), sep=",", flush=True)


if __name__ == "__main__":
    name, *given = sys.argv[1:]
    main(name, *map(int, given[:3]), *[tuple(map(int, lags.split(","))) for lags in given[3:4]])
