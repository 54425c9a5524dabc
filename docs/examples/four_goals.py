"""One agent, four goals, in one moving picture. It is told each in words and numbers, and is not trained again.

semagram-train task=pendulum-swingup steps=40000
python docs/examples/four_goals.py runs/last goals.gif
"""

import sys
import tempfile
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import semagram
from PIL import Image, ImageDraw

from envs.cameras import frame

GOALS = {  # what is written below, and what is wanted
    "stand": "pole_vertical > 0.95",
    "hang still": "pole_vertical < -0.95, angular_velocity = 0 +- 0.3",
    "spin to the left": "angular_velocity = 6 +- 1",
    "spin to the right": "angular_velocity = -6 +- 1",
}


def episode(agent, folder: str, steps: int, every: int = 2) -> list[np.ndarray]:
    """Play one episode under a guidance; return every second frame (H, W, 3)."""
    agent.guide(folder, weight=1.0)
    agent.reset()
    env, frames = semagram.make_env(agent.task, render=True), []
    observation, _ = env.reset(seed=1)
    for step in range(steps):
        observation, *_ = env.step(agent.act(observation))
        if step % every == 0:
            frames.append(frame(env, 160, 160))
    env.close()
    return frames


def main(run: str, path: str, steps: int = 300) -> None:
    """Tell the agent of a run each goal, and write the four episodes side by side."""
    agent, films = semagram.load(run), []
    for sentence, want in GOALS.items():
        with tempfile.TemporaryDirectory() as place:
            folder = f"{place}/{sentence}"
            semagram.guide(run, folder, want=want, fit=False)
            films.append(episode(agent, folder, steps))
    pages = []
    for views in zip(*films, strict=True):
        page = Image.new("RGB", (4 * 164, 180), "white")
        for i, (view, sentence) in enumerate(zip(views, GOALS, strict=True)):
            page.paste(Image.fromarray(view), (164 * i + 2, 2))
            ImageDraw.Draw(page).text((164 * i + 6, 165), sentence, fill=(60, 60, 60))
        pages.append(np.asarray(page.quantize(64).convert("RGB")))
    imageio.mimsave(Path(path), pages, fps=25, loop=0)


if __name__ == "__main__":
    main(*sys.argv[1:3])
