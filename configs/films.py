"""rollout.mp4: one episode as a person would watch it."""

import os
from collections.abc import Callable
from pathlib import Path

import imageio.v2 as imageio
import numpy as np

from envs.make import episode_limit, make
from envs.rendering import RenderingUnavailable, frame
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.rollouts import as_tensors, episode_seeds

HEIGHT, WIDTH = 240, 320
LONGEST = 1000  # control steps


def film(path: Path, task: TaskConfig, agent: Agent, say: Callable[[str], None], seed: int = 0) -> bool:
    """Write one episode as an mp4; where nothing can be drawn, `say` why in one line and return False."""
    env = make(task, render=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.mp4")
    try:
        observation, _ = env.reset(seed=episode_seeds(seed, 2, 0, 1)[0])
        first = frame(env, HEIGHT, WIDTH)
        with imageio.get_writer(aside, fps=round(env.metadata["render_fps"]), codec="libx264", quality=7) as video:
            video.append_data(first)
            for _ in range(episode_limit(env) or LONGEST):
                action = agent.act({key: value[None] for key, value in as_tensors(observation).items()})
                observation, _, terminated, truncated, _ = env.step(action[0].numpy())
                video.append_data(np.ascontiguousarray(frame(env, HEIGHT, WIDTH)))
                if terminated or truncated:
                    break
        os.replace(aside, path)
    except RenderingUnavailable as error:
        say(str(error))
        return False
    finally:
        aside.unlink(missing_ok=True)
        env.close()
    return True
