"""A film of an episode: beside it the glyph of the current plan, below it what cameras show and strips over time.

And the pictures that a training run leaves.
"""

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from configs.reporting import say
from configs.runs.parts import Parts
from configs.runs.report import NOTHING, Report
from configs.runs.run_folder import RunFolder
from envs.cameras import frame
from envs.make import ENDLESS, make_vector
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.alarms import Watch
from policies.decisions.decision import Decision
from policies.glyphs.glyph import glyph
from policies.glyphs.ink import draw, picture
from policies.glyphs.strips import Strips
from policies.nearest_frames import NearestFrames, imagined
from policies.storage.folders import replace_file
from policies.tokens.curves import Curve
from policies.tokens.vocabulary import Move, plan_bytes
from policies.training.episodes import Episodes, Step, play
from policies.training.rollouts import evaluated
from sim.renderer import RenderingUnavailable
from sim.so101.tasks import ABSOLUTE
from worldmodel import senses as naming
from worldmodel.mppi import Plan
from worldmodel.observation import Observation

HEIGHT, WIDTH = 240, 320  # pixels
TILE, CAPTION, GAP = 80, 16, 4  # pixels; a camera frame's longer side is scaled to TILE
MISSING, INK, PAPER = (200, 40, 40), (60, 60, 60), (255, 255, 255)
POLICY_ACTS = "the policy acts"
PLANS = ("plan.svg", "plan.png")
GIF, GIF_SECONDS, GIF_FPS = ".gif", 8, 12.5


def leave(parts: Parts, folder: RunFolder, report: Report, heed: Callable[[], None]) -> None:
    """Write a run's learning curve and, if asked for, its film; `heed` is called before that and each of its frames."""
    from envs.benchmark.figures import learning_curve, save
    from envs.benchmark.results import read_curve

    config = parts.config
    save(folder.path / "curve.png", learning_curve(read_curve(folder.metrics), config.task.label))
    if config.video:
        heed()
        agent, replay = parts.evaluator(True, 0), parts.trainer.replay
        memories = NearestFrames.of(replay, agent.model) if config.perceived.cameras else None
        more: dict = {"variation": config.randomise, "senses": config.perceived}
        with closing(make_vector(config.task, 1, render=True, **more)) as env:
            episodes, path = evaluated(env, agent, 0, stream=2), folder.path / "rollout.mp4"
            film(path, episodes, config.task, agent, memories, heed, report=report)


def film(
    path: Path,
    episodes: Episodes,
    task: TaskConfig,
    agent: Agent,
    memories: NearestFrames | None = None,
    tick: Callable[[], None] | None = None,
    of: int = 0,
    report: Report = NOTHING,
    watch: Watch | None = None,
) -> bool:
    """Write the first episode of environment number `of`, in this process, to `path`; all are played. Return if it was.

    It is an mp4 or, where `path` ends in .gif, the first `GIF_SECONDS` as a moving picture. Says why, if nothing can
    be rendered. If the agent has cameras, a strip below shows their frames and, with `memories`, the frames that it
    expects. `report`: what to draw of named quantities, and the guidance whose words stand below the scene. `watch`:
    what acts on the agent's alarms, as in `rollout`; what it did last stands there, too.

    If the agent plans, the plan of its first decision is always written beside the video: plan.svg, plan.png and
    plan.json. `tick` is called before each frame is written; if it raises, no video is left.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.mp4")
    env = episodes.env.envs[of]
    step_seconds = 1 / env.metadata["render_fps"]
    gauges = report.gauges(episodes.units)
    reel, strips = Reel(agent, step_seconds, memories, of), Strips(step_seconds, gauges)
    columns = [[*episodes.units].index(gauge.name) for gauge in gauges]
    if watch:
        watch.begin(episodes.env.num_envs, getattr(episodes.env, "envs", ()))

    def act(observation: Observation, own: Tensor) -> Tensor:
        action = watch.act(agent, observation, own) if watch else agent.act(observation, own)
        if agent.plan is not None and reel.decision is None:
            first = sentence(agent.plan, agent.curve, step_seconds, of)
            for name in PLANS:
                draw(first, path.with_name(name))
            plan = plan_bytes(first, task.label, places=task.control == ABSOLUTE)
            replace_file(path.with_name("plan.json"), plan)
        reel.follow()
        strips.add(action[of].numpy(), *reel.imagined, episodes.quantities[of, columns].tolist())
        shoot(observation)
        return action

    def after(step: Step) -> bool:
        if watch:
            watch.look(agent, episodes.number == 1, step.reward)
        if ended := bool(step.ended[of]):
            shoot(step.observation)
        return ended

    def shoot(observation: Observation) -> None:
        page = reel.show(frame(env, HEIGHT, WIDTH), observation)
        words = [_line(report.sentence, page.shape[1])] if report.sentence else []
        words += [_line(watch.newest(of), page.shape[1])] if watch else []
        page = np.concatenate([page, *words, strips.draw(page.shape[1])])
        if tick:
            tick()
        if path.suffix != GIF or len(strips.actions) <= GIF_SECONDS / step_seconds:
            video.append_data(page)

    try:
        with closing(_writer(aside, 1 / step_seconds)) as video:
            play(episodes, agent, env.metadata["episode_limit"] or ENDLESS, after, once=True, act=act)
        os.replace(aside, path)
        return True
    except RenderingUnavailable as error:
        say(f"no video: {error}")
        return False
    finally:
        aside.unlink(missing_ok=True)


def _writer(path: Path, fps: float):
    """Return what writes frames to an mp4, or to a GIF (GIF_FPS at most, one palette, so that nothing flickers)."""
    if GIF not in path.suffixes:
        return imageio.get_writer(path, fps=round(fps), codec="libx264", quality=7)
    palette = "split[a][b];[a]palettegen=max_colors=128[p];[b][p]paletteuse=dither=none"
    form = ["-filter_complex", f"fps={min(fps, GIF_FPS)},{palette}", "-loop", "0", "-f", "gif"]
    look: dict = {"codec": "gif", "quality": None, "pixelformat": "rgb8", "macro_block_size": 1}
    look["ffmpeg_log_level"] = "error"  # it warns of colours that are alike
    return imageio.get_writer(path, fps=fps, output_params=form, **look)


class Reel:
    """Composes a video's frames: the scene, beside it the glyph of the agent's newest decision, below it the cameras.

    The glyph shows the plan or, while the policy acts in its place, the policy's token, labelled as such. The strip
    below has a row per camera: its frame, outlined in red if it is masked as missing, then as many expected frames as
    fit: the camera's own at the remembered moment whose latent is nearest to the one imagined. Without `memories` there
    is none.
    """

    def __init__(self, agent: Agent, step_seconds: float, memories: NearestFrames | None = None, of: int = 0):
        """Film environment number `of` of the agent's."""
        self.agent, self.step_seconds, self.memories, self.of = agent, step_seconds, memories, of
        self.cameras = [key for key in agent.model.senses if naming.is_image(key)]
        self.decision: Decision | None = None
        self.page = np.zeros((HEIGHT, 0, 3), np.uint8)
        self.expected: dict[str, list[tuple[np.ndarray, float]]] = {}
        self.imagined: tuple[float | None, float | None] = None, None

    def follow(self) -> None:
        """Take in a new decision, and `imagined`: its value and reward per control step, (None, None) unplanned."""
        plan, decision = self.agent.plan, self.agent.decision
        if plan is None or decision is None or decision is self.decision or not self.agent.planned[self.of]:
            return
        self.decision, self.page = decision, self._glyph(plan, decision)
        self.expected = self._expect(plan, decision)
        if self.agent.planner is not None:
            # Of all environments, as under guidance each has readings of its own.
            reward, value = self.agent.planner.worth(plan.latent, decision.tokens[0].to(plan.latent.device))
            self.imagined = float(value[self.of]), float(reward[self.of]) / self.agent.curve.length

    def show(self, scene: np.ndarray, observation: Observation) -> np.ndarray:
        """Return the frame for a scene (H, W, 3) and the observation it belongs to."""
        self.follow()
        page = np.ascontiguousarray(np.concatenate([scene, self.page], 1))
        return np.concatenate([page, self._strip(observation, page.shape[1])]) if self.cameras else page

    def _glyph(self, plan: Plan, decision: Decision) -> np.ndarray:
        """Draw a decision as a glyph, (H, H, 3): the plan, or the policy's token in its place."""
        agent, alone = self.agent, bool(decision.by_policy[self.of])
        if alone:
            followed = motions(decision.plan(self.of), agent.curve, self.step_seconds)
        else:
            followed = sentence(plan, agent.curve, self.step_seconds, self.of)
        page = Image.fromarray(picture(glyph(followed), HEIGHT, paper="white")[..., :3])
        if alone:
            ImageDraw.Draw(page).text((GAP, GAP), POLICY_ACTS, fill=MISSING)
        return np.asarray(page)

    def _expect(self, plan: Plan, decision: Decision) -> dict[str, list[tuple[np.ndarray, float]]]:
        """Return for each camera the remembered frames nearest to what is imagined, and in how many seconds each is."""
        if self.memories is None or not self.cameras:
            return {}
        tokens = decision.plan(self.of)
        latents = imagined(self.agent.model, plan.latent[self.of], tokens)
        ends = [(t + 1) * self.agent.curve.length * self.step_seconds for t in range(len(tokens))]
        frames = {key: self.memories.expected(key, latents).numpy() for key in self.cameras}
        # A camera that never saw anything has no frames; any other has one per token end.
        return {key: list(zip(each, ends, strict=False)) for key, each in frames.items()}

    def _strip(self, observation: Observation, width: int) -> np.ndarray:
        """Return the strip (H, `width`, 3) for the current observation of one environment."""
        strip = Image.new("RGB", (width, len(self.cameras) * (TILE + CAPTION)), PAPER)
        for row, key in enumerate(self.cameras):
            there, top = bool(observation.present[key][self.of]), row * (TILE + CAPTION)
            name, now = key.removeprefix(naming.IMAGE_KEY_PREFIX), observation.values[key][self.of].numpy()
            _tile(strip, (GAP, top), now, name, there)
            for n, (expected, seconds) in enumerate(self.expected.get(key, ()), 1):
                left = GAP + n * (TILE + GAP)
                if left + TILE > width:
                    break
                _tile(strip, (left, top), expected, f"in {seconds:.2g} s?", True)
        return np.asarray(strip)


def _line(text: str, width: int) -> np.ndarray:
    """Return a line of text (CAPTION, `width`, 3), cut off where it is too long."""
    line = Image.new("RGB", (width, CAPTION), PAPER)
    ImageDraw.Draw(line).text((GAP, 2), text, fill=INK)
    return np.asarray(line)


def _tile(page: Image.Image, at: tuple[int, int], shown: np.ndarray, text: str, there: bool) -> None:
    """Draw a caption and, below it, a frame. `at`: the upper left corner; `there`: False for a missing frame."""
    ink, (left, top) = ImageDraw.Draw(page), at
    height, width = (max(1, round(TILE * side / max(shown.shape[:2]))) for side in shown.shape[:2])
    page.paste(Image.fromarray(shown).resize((width, height), Image.Resampling.NEAREST), (left, top + CAPTION))
    if not there:
        corners = left, top + CAPTION, left + width - 1, top + CAPTION + height - 1
        ink.rectangle(corners, outline=MISSING, width=3)
    caption = fitting(ink, text, "" if there else ": missing")
    ink.text((left, top + 2), caption, fill=INK if there else MISSING)


def fitting(ink: ImageDraw.ImageDraw, text: str, rest: str) -> str:
    """Return `text` + `rest`, with `text` shortened by an ellipsis if needed to be no wider than a tile."""
    whole = text + rest
    while text and ink.textlength(whole) > TILE:
        text = text[:-1]
        whole = f"{text}…{rest}"
    return whole


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
