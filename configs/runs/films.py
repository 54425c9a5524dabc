"""rollout.mp4: a video of one episode, with the glyph of the current plan beside it."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gymnasium
import imageio.v2 as imageio
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from configs.runs.camera_strip import GAP, MISSING, Strip
from envs.cameras import frame
from envs.make import ENDLESS, episode_limit
from envs.settings import TaskConfig
from policies.agent import Agent, Decision
from policies.glyphs.glyph import glyph
from policies.glyphs.ink import draw, picture
from policies.nearest_frames import NearestFrames
from policies.storage.folders import replace_file
from policies.tokens.curves import Curve
from policies.tokens.vocabulary import Move, plan_bytes
from policies.training.episodes import Episodes, Step, episode_seed, play
from sim.renderer import RenderingUnavailable
from sim.so101.tasks import ABSOLUTE
from worldmodel.mppi import Plan
from worldmodel.observation import Observation

HEIGHT, WIDTH = 240, 320
POLICY_ACTS = "the policy acts"
PLANS = ("plan.svg", "plan.png")


def film(
    path: Path,
    env: gymnasium.Env,
    task: TaskConfig,
    agent: Agent,
    say: Callable[[str], None],
    seed: int = 0,
    memories: NearestFrames | None = None,
    tick: Callable[[], None] | None = None,
) -> bool:
    """Write one episode of `env` to `path` as an mp4 and close `env`. Returns whether the video was written.

    If nothing can be rendered, `say` why and return False. If the agent has cameras, a strip below shows their frames
    and, with `memories`, the frames that it expects.

    If the agent plans, the plan of its first decision is always written beside the video: plan.svg, plan.png and
    plan.json. `tick` is called before each frame is written; if it raises, no video is left.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.mp4")
    step_seconds = 1 / env.metadata["render_fps"]
    reel, video = Reel(agent, step_seconds, memories), contextlib.ExitStack()
    begun: list = []  # the video, once there is a frame

    def shoot(observation: Observation) -> None:
        page = reel.show(frame(env, HEIGHT, WIDTH), observation)
        if not begun:
            writer = imageio.get_writer(aside, fps=round(1 / step_seconds), codec="libx264", quality=7)
            begun.append(video.enter_context(writer))
        if tick:
            tick()
        begun[0].append_data(page)

    def act(observation: Observation, own: Tensor) -> Tensor:
        action = agent.act(observation, own)
        if not begun and agent.plan is not None:
            _write_plan(path, sentence(agent.plan, agent.curve, step_seconds), task)
        shoot(observation)
        return action

    def after(step: Step) -> bool:
        if ended := bool(step.ended.any()):
            shoot(step.observation)
        return ended

    try:
        vector = SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.DISABLED)
        episodes = Episodes(vector, agent.model.senses, lambda i, number: episode_seed(seed, 2, i, number - 1))
        with video:
            play(episodes, agent, episode_limit(env) or ENDLESS, after, act=act)
        os.replace(aside, path)
    except RenderingUnavailable as error:
        say(f"no video: {error}")
        return False
    finally:
        aside.unlink(missing_ok=True)
        env.close()
    return True


def _write_plan(path: Path, first: tuple[Move, ...], task: TaskConfig) -> None:
    """Write the plan of the first decision beside the video."""
    for name in PLANS:
        draw(first, path.with_name(name))
    replace_file(path.with_name("plan.json"), plan_bytes(first, task.label, places=task.control == ABSOLUTE))


class Reel:
    """Composes a video's frames: the scene, beside it the glyph of the agent's newest decision, below it the cameras.

    The glyph is redrawn only for a new decision: the plan or, while the policy acts in place of plans that fell short
    of their predicted return, the policy's token, labelled as such. The strip of camera frames, with the expected ones
    given `memories`, appears only if the agent has cameras.
    """

    def __init__(self, agent: Agent, step_seconds: float, memories: NearestFrames | None = None):
        self.strip = Strip(agent, memories, step_seconds, WIDTH + HEIGHT * (agent.planner is not None))
        self.agent, self.step_seconds = agent, step_seconds
        self.drawn: Decision | None = None
        self.page = np.zeros((HEIGHT, HEIGHT, 3), np.uint8)

    def show(self, scene: np.ndarray, observation: Observation) -> np.ndarray:
        """Return the frame for a scene (H, W, 3) and the observation it belongs to: glyph beside, strip below."""
        page = np.ascontiguousarray(self._beside(scene))
        return np.concatenate([page, self.strip.show(observation)]) if self.strip.cameras else page

    def _beside(self, scene: np.ndarray) -> np.ndarray:
        """Return the scene with the glyph, (H, W + H, 3), or unchanged if the agent does not plan."""
        plan, decision = self.agent.plan, self.agent.decision
        if plan is None or decision is None:
            return scene
        if decision is not self.drawn:
            self.page, self.drawn = self._page(plan, decision), decision
        return np.concatenate([scene, self.page], 1)

    def _page(self, plan: Plan, decision: Decision) -> np.ndarray:
        """Draw a decision as a glyph, (H, H, 3): the plan, or the policy's token in its place."""
        agent, alone = self.agent, bool(decision.by_policy[0])
        if alone:
            followed = motions(decision.plan(0), agent.curve, self.step_seconds)
        else:
            followed = sentence(plan, agent.curve, self.step_seconds)
        page = Image.fromarray(picture(glyph(followed), HEIGHT, paper="white")[..., :3])
        if alone:
            ImageDraw.Draw(page).text((GAP, GAP), POLICY_ACTS, fill=MISSING)
        return np.asarray(page)


def sentence(plan: Plan, curve: Curve, step_seconds: float, of: int = 0) -> tuple[Move, ...]:
    """Return a plan's motions for latent number `of`, with the elites' standard deviation as their `std`."""
    moves, std = motions(plan.tokens[:, of].cpu(), curve, step_seconds), plan.std[:, of].cpu().double().numpy()
    return tuple(replace(m, std=s.reshape(m.points.shape)) for m, s in zip(moves, std, strict=True))


def motions(tokens: Float[Tensor, "T P"], curve: Curve, step_seconds: float) -> tuple[Move, ...]:
    """Return the tokens of a plan as motions; a control step lasts `step_seconds`."""
    return tuple(
        Move.of(each, curve.control_points, curve.degree, curve.length * step_seconds)
        for each in tokens.double().numpy()
    )
