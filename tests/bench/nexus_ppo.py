"""The peer's learner on the arm's task: so101-nexus's own PPO script on this machine, and how often it then succeeds.

    uv run --with tensorboard python tests/bench/nexus_ppo.py CHECKOUT STEPS [SEED] [TASK]

CHECKOUT: a clone of github.com/johnsutor/so101-nexus, whose `examples/ppo.py` is run as it is, on the CPU, with its own
settings but the number of steps. Its other recipe, behaviour cloning and then PPO, simulates on a GPU (MuJoCo Warp).
50 episodes of their environment by the policy's mean; a success is the environment's own, at any step. Their episodes
last up to 512 steps of their control rate. The last line is JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import so101_nexus.mujoco  # noqa: F401  registers the tasks
import torch

EPISODES = 50


def train(checkout: Path, folder: Path, steps: int, seed: int, task: str) -> tuple[Path, float]:
    """Their script, as it is; the weights it left, and the seconds it took."""
    script, begun = checkout / "examples" / "ppo.py", time.perf_counter()
    said = [f"--total-timesteps={steps}", f"--seed={seed}", f"--env-id={task}", "--no-cuda", "--save-model"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script), *said], cwd=folder, env=env, capture_output=True, check=False)
    found = list(folder.glob("runs/*/ppo.cleanrl_model"))  # it then looks for cleanrl_utils, which it does not bring
    if not found:
        sys.exit(f"{script}: exit code {done.returncode}: {done.stderr.decode()[-500:]}")
    return found[0], time.perf_counter() - begun


def successes(checkout: Path, weights: Path, task: str) -> int:
    """Episodes that succeeded, by the mean of their policy."""
    sys.path.insert(0, str(checkout / "examples"))
    from ppo import Agent

    envs = gym.vector.SyncVectorEnv([lambda: gym.make(task)])
    agent = Agent(envs)
    agent.load_state_dict(torch.load(weights, weights_only=True))
    env, count = envs.envs[0], 0
    for episode in range(EPISODES):
        observation, info = env.reset(seed=1000 + episode)
        over, succeeded = False, bool(info.get("success"))
        while not over:
            with torch.no_grad():
                seen = torch.as_tensor(observation, dtype=torch.float32)[None]
                action = agent.actor_mean(agent.network(seen))[0].numpy()
            observation, _, terminated, truncated, info = env.step(action)
            succeeded, over = succeeded or bool(info["success"]), terminated or truncated
        count += succeeded
    return count


def main() -> None:
    """Train, evaluate, say it."""
    torch.set_num_threads(1)
    checkout, steps = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    seed, task = int((sys.argv[3:4] or ["1"])[0]), (sys.argv[4:5] or ["MuJoCoTouch-v1"])[0]
    with tempfile.TemporaryDirectory() as folder:
        weights, seconds = train(checkout, Path(folder), steps, seed, task)
        rate = successes(checkout, weights, task) / EPISODES
    row = {"task": task, "steps": steps, "seed": seed, "success_rate": rate, "train_seconds": round(seconds, 1)}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
