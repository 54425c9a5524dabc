"""A policy that LeRobot trained on a recording of the SO-101 in simulation, or the recording itself, played by state.

    lerobot-train --policy.type=act --dataset.root=<dataset> ...
    python tests/bench/act.py <dataset> <checkpoint>/pretrained_model [n_action_steps=..] [temporal_ensemble_coeff=..]
    python tests/bench/act.py <dataset> replay

The episodes are those of `semagram-eval`; `replay` sends each recorded episode's actions, from its own start. A
policy's targets are reached by our actions, so that none moves faster than `sim.so101.joints.SPEEDS`.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

from configs.arguments import named
from configs.runs.recordings import adapted
from configs.schema import TrainConfig
from configs.train import composed_or_refused
from envs.make import make_vector
from policies.training.rollouts import HELD_S, evaluation_seeds
from robot.datasets import EPISODES, columns, steps_of
from robot.recording import SCENE
from sim.so101.joints import Units
from worldmodel.senses import STATE_KEY
from worldmodel.strict import build

COUNT, TOGETHER, SEED = 100, 25, 100


@torch.no_grad()
def main(dataset: str, checkpoint: str, keys: dict[str, str]) -> None:
    """Print how often the policy, or what was recorded, succeeds at any step, and at the end."""
    words = [f"data={dataset}", "envs=0"]
    task = build(TrainConfig, adapted(composed_or_refused("train", words), named(words))).task
    seeds, recorded = evaluation_seeds(SEED, 0, COUNT), list[np.ndarray]()
    if checkpoint == "replay":
        values, numbers = steps_of(Path(dataset), ("action",))
        recorded = [values["action"][numbers == number] for number in np.unique(numbers)]
        seeds = columns(Path(dataset), EPISODES)["seed"]
    else:
        config = PreTrainedConfig.from_pretrained(checkpoint)
        for key, value in keys.items():
            setattr(config, key, float(value) if "coeff" in key else int(value))
        policy = get_policy_class(config.type).from_pretrained(checkpoint, config=config)
        before, after = make_pre_post_processors(config, checkpoint)
    done, ends = list[bool](), list[bool]()
    for first in range(0, len(seeds), TOGETHER):
        own = seeds[first : first + TOGETHER]
        env = make_vector(task, len(own), processes=False)
        targets, labels = env.envs[0].get_wrapper_attr("targets"), env.metadata["labels"]
        units = Units(targets.low, targets.high)
        at, off = ([labels.index(f"{part}[{i}]") for i in range(6)] for part in ("joint_positions", "target_lag"))
        (seen, _), ever, held = env.reset(seed=own), np.zeros(len(own), bool), np.zeros(len(own), int)
        if not recorded:
            policy.reset()
        for step in range(env.metadata["episode_limit"]):
            state = seen[STATE_KEY].astype(float)
            joints = np.stack([units.read(each) for each in state[:, at]])
            if recorded:
                goals = np.stack([each[min(step, len(each) - 1)] for each in recorded[first : first + len(own)]])
            else:
                batch = {STATE_KEY: torch.from_numpy(joints).float(), SCENE: torch.from_numpy(state).float()}
                goals = after(policy.select_action(before(batch))).numpy()
            steps = zip(state[:, at] + state[:, off], units.to_rad(goals.astype(float)), strict=True)
            seen, *_, info = env.step(np.stack([targets.action(*each) for each in steps]).astype(np.float32))
            now = info["is_success"].astype(bool)
            ever, held = ever | now, np.where(now, held + 1, 0)
        done += ever.tolist()
        ends += (held >= math.ceil(HELD_S * task.arm.control_hz)).tolist()
        env.close()
    print(f"{checkpoint}: success {np.mean(done):.2f}, at the end {np.mean(ends):.2f} of {len(done)}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2], dict(word.split("=") for word in sys.argv[3:]))
