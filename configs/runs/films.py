"""rollout.mp4: one episode as a person would watch it, and beside it the glyph of what is being followed."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import gymnasium
import imageio.v2 as imageio
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from configs.runs.sights import GAP, MISSING, Strip
from envs.make import ENDLESS, episode_limit
from envs.missing import Observation
from envs.rendering import frame
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.decision import Decision
from policies.glyphs.glyph import glyph
from policies.glyphs.ink import draw, picture
from policies.memories import Memories
from policies.storage.files import replace_file
from policies.tokens.curves import Curve
from policies.tokens.notation import plan_bytes
from policies.tokens.vocabulary import Move
from policies.training.rollouts import as_tensors, episode_seeds
from sim.canvas import RenderingUnavailable
from sim.so101.tasks import ABSOLUTE
from worldmodel.planner import Plan

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
    memories: Memories | None = None,
    tick: Callable[[], None] | None = None,
) -> bool:
    """Write one episode of `env`, which is closed, as an mp4; where nothing can be drawn, `say` why and return False.

    What the cameras of an agent that has some show is seen below and, with `memories`, what it expects to see.

    The plan of its first decision, if the agent plans, is left beside it in any case: plan.svg, plan.png, plan.json.
    `tick` is called at each frame; of what it raises no film is left.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.mp4")
    step_seconds = 1 / env.metadata["render_fps"]
    try:
        observation, _ = env.reset(seed=episode_seeds(seed, 2, 0, 1)[0])
        action = agent.act(_one(observation))
        if agent.plan is not None:
            first_plan = sentence(agent.plan, agent.curve, step_seconds)
            for name in PLANS:
                draw(first_plan, path.with_name(name))
            plan = plan_bytes(first_plan, task.label, places=task.control == ABSOLUTE)
            replace_file(path.with_name("plan.json"), plan)
        pages = _pages(env, agent, Reel(agent, step_seconds, memories), observation, action)
        first = next(pages)
        with imageio.get_writer(aside, fps=round(1 / step_seconds), codec="libx264", quality=7) as video:
            for page in chain([first], pages):
                if tick:
                    tick()
                video.append_data(page)
        os.replace(aside, path)
    except RenderingUnavailable as error:
        say(f"no video: {error}")
        return False
    finally:
        aside.unlink(missing_ok=True)
        env.close()
    return True


def _pages(
    env: gymnasium.Env, agent: Agent, reel: "Reel", observation: Observation, action: Float[Tensor, "1 A"]
) -> Iterator[np.ndarray]:
    """What is shown of an episode, from its first observation and what is done there to its end."""
    yield reel.show(frame(env, HEIGHT, WIDTH), observation)
    for _ in range(episode_limit(env) or ENDLESS):
        observation, _, terminated, truncated, _ = env.step(action[0].numpy())
        ended = terminated or truncated
        if not ended:
            action = agent.act(_one(observation))
        yield reel.show(frame(env, HEIGHT, WIDTH), observation)
        if ended:
            return


class Reel:
    """Puts the glyph of an agent's newest decision beside a picture, drawn anew only when there is a new one.

    That is its plan or, where the policy stands in for plans that did not pay, the policy's token, and says so. Where
    the agent has cameras, the strip of what is seen and, with `memories`, expected comes below.
    """

    def __init__(self, agent: Agent, step_seconds: float, memories: Memories | None = None):
        self.strip = Strip(agent, memories, step_seconds, WIDTH + HEIGHT * (agent.planner is not None))
        self.agent, self.step_seconds = agent, step_seconds
        self.drawn: Decision | None = None
        self.page = np.zeros((HEIGHT, HEIGHT, 3), np.uint8)

    def show(self, scene: np.ndarray, observation: Observation) -> np.ndarray:
        """The scene (H, W, 3) with what belongs beside it and below it."""
        page = np.ascontiguousarray(self._beside(scene))
        return np.concatenate([page, self.strip.show(observation)]) if self.strip.cameras else page

    def _beside(self, scene: np.ndarray) -> np.ndarray:
        """The scene as (H, W + H, 3), or as it is where the agent does not plan."""
        agent = self.agent
        if agent.plan is None:
            return scene
        if agent.decision is not self.drawn:
            self.page, self.drawn = self._page(agent.decision), agent.decision
        return np.concatenate([scene, self.page], 1)

    def _page(self, decision: Decision) -> np.ndarray:
        """What was decided, (H, H, 3)."""
        agent, alone = self.agent, bool(decision.by_policy[0])
        if alone:
            followed = motions(decision.sentence(0), agent.curve, self.step_seconds)
        else:
            followed = sentence(agent.plan, agent.curve, self.step_seconds)
        page = Image.fromarray(picture(glyph(followed), HEIGHT, paper="white")[..., :3])
        if alone:
            ImageDraw.Draw(page).text((GAP, GAP), POLICY_ACTS, fill=MISSING)
        return np.asarray(page)


def sentence(plan: Plan, curve: Curve, step_seconds: float, of: int = 0) -> tuple[Move, ...]:
    """The motions of a plan for the latent number `of`, with the elites' deviation as their spread."""
    moves, spread = motions(plan.tokens[:, of].cpu(), curve, step_seconds), plan.spread[:, of].cpu().double().numpy()
    return tuple(replace(m, spread=s.reshape(m.points.shape)) for m, s in zip(moves, spread, strict=True))


def motions(tokens: Float[Tensor, "T P"], curve: Curve, step_seconds: float) -> tuple[Move, ...]:
    """The motions of a sentence of tokens."""
    return tuple(
        Move.of(each, curve.knots, curve.degree, curve.length * step_seconds) for each in tokens.double().numpy()
    )


def _one(observation: Observation) -> dict:
    return {key: value[None] for key, value in as_tensors(observation).items()}
