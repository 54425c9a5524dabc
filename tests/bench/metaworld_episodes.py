"""Meta-World's scripted experts recorded, and decoded targets replayed; for an environment of its own.

Meta-World wants MuJoCo 3.3.0 exactly, which ours is not, so:

  M="uv run --no-project --python 3.12 --with metaworld,numpy,packaging python tests/bench/metaworld_episodes.py"
  $M record episodes.npz                     8 tasks x 20 episodes x 200 steps at 80 Hz
  uv run python tests/bench/tokens_metaworld.py episodes.npz targets.npz
  $M replay targets.npz                      success of the true targets and of each code's, as one JSON line
"""

import json
import sys

import metaworld
import metaworld.policies
import numpy as np

EXPERTS = {
    "reach-v3": "SawyerReachV3Policy",
    "push-v3": "SawyerPushV3Policy",
    "pick-place-v3": "SawyerPickPlaceV3Policy",
    "door-open-v3": "SawyerDoorOpenV3Policy",
    "drawer-open-v3": "SawyerDrawerOpenV3Policy",
    "button-press-topdown-v3": "SawyerButtonPressTopdownV3Policy",
    "peg-insert-side-v3": "SawyerPegInsertionSideV3Policy",
    "window-open-v3": "SawyerWindowOpenV3Policy",
}
EPISODES, STEPS = 20, 200


def begin(benchmark, env, episode: int) -> np.ndarray:
    """Reset the environment to the episode's task; returns the first observation."""
    env.set_task(benchmark.train_tasks[episode])
    observation, _ = env.reset(seed=episode)
    return observation


def record(path: str) -> None:
    """Save every expert episode: raw actions, the hand as observed, where the hand was told to be, success."""
    saved = {}
    for name, expert in EXPERTS.items():
        benchmark = metaworld.MT1(name, seed=0)
        env, policy = benchmark.train_classes[name](), getattr(metaworld.policies, expert)()
        for episode in range(EPISODES):
            observation, success = begin(benchmark, env, episode), False
            rows = {"action": [], "hand": [], "target": [env.data.mocap_pos[0].copy()]}
            for _ in range(STEPS):
                action = np.clip(policy.get_action(observation), -1, 1)
                rows["action"].append(action)
                rows["hand"].append(observation[:4].copy())
                observation, _, _, _, info = env.step(action)
                rows["target"].append(env.data.mocap_pos[0].copy())
                success |= info["success"] > 0
            for key, values in rows.items():
                saved[f"{name}/{episode}/{key}"] = np.array(values, dtype=np.float32)
            saved[f"{name}/{episode}/success"] = np.array(success)
    np.savez_compressed(path, **saved)


def replay(path: str) -> None:
    """Move the hand to each code's targets (T, 4: place in metres, grip) and count successes."""
    targets = np.load(path)
    counts: dict[str, dict[str, int]] = {}
    for name in EXPERTS:
        benchmark = metaworld.MT1(name, seed=0)
        env = benchmark.train_classes[name]()
        for key in sorted(k for k in targets.files if k.split("/")[1] == name):
            code, _, episode = key.split("/")
            begin(benchmark, env, int(episode))
            success = False
            for row in targets[key]:
                move = (row[:3] - env.data.mocap_pos[0]) / env.action_scale
                *_, info = env.step(np.clip(np.append(move, row[3]), -1, 1).astype(np.float32))
                success |= info["success"] > 0
            counts.setdefault(code, {}).setdefault(name, 0)
            counts[code][name] += int(success)
    print(json.dumps({code: {"successes": sum(of.values()), **of} for code, of in counts.items()}))


if __name__ == "__main__":
    {"record": record, "replay": replay}[sys.argv[1]](sys.argv[2])
