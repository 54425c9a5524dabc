"""The codec on Meta-World: the table on hand positions and on raw actions, and decoded targets to be replayed.

See metaworld_episodes.py, which records the episodes and replays the targets.
"""

import json
import sys

import numpy as np
from codec import measure, rivals

from policies.codec import Codec, CodecConfig
from policies.codec.fitting import Scaling

FITTED = 14  # of the 20 episodes of each task
RATE_HZ = 80


def split(episodes: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Episodes to fit to, and held-out ones."""
    parts = ([], [])
    for name, episode in episodes.items():
        parts[int(name.split("/")[1]) >= FITTED].append(episode)
    return parts


def table(episodes: dict[str, np.ndarray], key: str, ids: int) -> None:
    """Print a JSON line for our codec and each other code, on one second of a set."""
    fitted, held_out = split(episodes)
    scaling = Scaling.fit(fitted)
    fitted, held_out = ([scaling.scale(e) for e in part] for part in (fitted, held_out))
    ours = Codec.fit(fitted, CodecConfig(length=RATE_HZ, control_points=10, ids=ids), stride=4)
    for code in (ours, *rivals(fitted, RATE_HZ, 1.0, stride=4)):
        print(json.dumps({"set": key} | measure(code, held_out, RATE_HZ, 2000)))


def targets(saved, whole: dict[str, np.ndarray], path: str) -> None:
    """Write the held-out experts' targets, true and decoded in chunks of 50 steps one after the other."""
    decoded = {}
    for ids in (8, 16):
        codec = Codec.fit(split(whole)[0], CodecConfig(length=50, ids=ids), stride=4)
        for name, episode in whole.items():
            if int(name.split("/")[1]) < FITTED or not saved[f"{name}/success"]:
                continue
            at, chunks = episode[0], []
            for begin in range(1, len(episode) - 49, 50):
                chunks.append(codec.decode(codec.encode(episode[begin : begin + 50], at), at))
                at = chunks[-1][-1].astype(float)
            decoded[f"semagram-{ids}x12/{name}"] = np.concatenate(chunks)
            decoded[f"true/{name}"] = episode[1:]
    np.savez_compressed(path, **decoded)
    print("episodes", sum(key.startswith("true") for key in decoded))


if __name__ == "__main__":
    file = np.load(sys.argv[1])
    names = sorted({name.rpartition("/")[0] for name in file.files})
    for key, ids in (("hand", 8), ("action", 21)):
        table({name: file[f"{name}/{key}"].astype(float) for name in names}, key, ids)
    grips = {name: file[f"{name}/action"][:, 3:] for name in names}
    whole = {n: np.hstack([file[f"{n}/target"], np.vstack([g[:1], g])]).astype(float) for n, g in grips.items()}
    targets(file, whole, sys.argv[2])
