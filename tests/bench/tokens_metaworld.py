"""The codec on Meta-World: the table on hand positions and on raw actions, and decoded targets to be replayed.

See metaworld_episodes.py, which records the episodes and replays the targets.
"""

import json
import sys

import numpy as np

from policies.codec import Codec, CodecConfig
from policies.codec.comparison import Ordered, baselines, measure
from policies.codec.scaling import Scaling
from policies.codec.training import windows_of

FITTED = 14  # of the 20 episodes of each task
RATE_HZ = 80
CORNERS = {"writing": "corners", "ids": 24, "bits": 14}


def parts(saved, key: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Episodes to fit to and held-out ones, scaled by the former's 1-99 % quantiles to [-1, 1]."""
    names = sorted({name.rpartition("/")[0] for name in saved.files})
    episodes = {name: saved[f"{name}/{key}"].astype(float) for name in names}
    fitted = [e for name, e in episodes.items() if int(name.split("/")[1]) < FITTED]
    held_out = [e for name, e in episodes.items() if int(name.split("/")[1]) >= FITTED]
    scaling = Scaling.fit(fitted, 1.3)
    return [scaling.scale(e) for e in fitted], [scaling.scale(e) for e in held_out]


def table(saved, key: str, *choices: dict) -> None:
    """Print a JSON line for each of our codecs and the other codes, on one second of a set."""
    fitted, held_out = parts(saved, key)
    ours = []
    for choice in choices:
        codec = Codec.fit(fitted, CodecConfig(length=RATE_HZ, knots=10, **choice), stride=4)
        print(key, choice, type(codec.writing).__name__, "switching", codec.switching)
        ours.append(Ordered(codec))
    for code in (*ours, *baselines(windows_of(fitted, RATE_HZ, 4), 1.0)):
        print(json.dumps({"set": key} | measure(code, held_out, RATE_HZ, 2000, np.random.default_rng(0)).__dict__))


def targets(saved, path: str) -> None:
    """Write the held-out experts' targets, true and decoded in chunks of 50 steps one after the other."""
    names = sorted({name.rpartition("/")[0] for name in saved.files})
    whole = {}
    for name in names:
        grip = saved[f"{name}/action"][:, 3:]
        whole[name] = np.concatenate([saved[f"{name}/target"], np.concatenate([grip[:1], grip])], axis=1).astype(float)
    fitted = [e for name, e in whole.items() if int(name.split("/")[1]) < FITTED]
    decoded = {}
    for label, choice in (("8x12", {"ids": 8}), ("16x12", {"ids": 16}), ("corners", CORNERS)):
        codec = Codec.fit(fitted, CodecConfig(length=50, **choice), stride=4)
        bits = []
        for name, episode in whole.items():
            if int(name.split("/")[1]) < FITTED or not saved[f"{name}/success"]:
                continue
            at, chunks = episode[0], []
            for begin in range(1, len(episode) - 49, 50):
                ids = codec.encode(episode[begin : begin + 50], at)
                bits.append(int(codec.said(ids)) * codec.config.bits)
                chunks.append(codec.decode(ids, at))
                at = chunks[-1][-1].astype(float)
            decoded[f"semagram-{label}/{name}"] = np.concatenate(chunks)
            decoded[f"true/{name}"] = episode[1:]
        print("targets", label, type(codec.writing).__name__, codec.switching, "bits a chunk", np.mean(bits), max(bits))
    np.savez_compressed(path, **decoded)
    print("episodes", sum(key.startswith("true") for key in decoded))


if __name__ == "__main__":
    episodes = np.load(sys.argv[1])
    table(episodes, "hand", {"ids": 8}, CORNERS)
    table(episodes, "action", {"ids": 21}, {"ids": 64, "bits": 14, "worth": 0.003}, {"ids": 21, "writing": "curves"})
    targets(episodes, sys.argv[2])
