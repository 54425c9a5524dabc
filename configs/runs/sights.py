"""The strip under a film: what each camera shows now, and beside it what is expected to be seen, out of memory."""

import numpy as np
from PIL import Image, ImageDraw

from envs.missing import Observation
from policies.agent import Agent
from policies.memories import Memories, imagined
from worldmodel import senses as naming

TILE, CAPTION, GAP = 80, 16, 4  # pixels; a frame's longer side is as long as a tile's
MISSING, INK, PAPER = (200, 40, 40), (60, 60, 60), (255, 255, 255)


class Strip:
    """Draws a strip `width` pixels wide: the cameras, a frame in red where one is masked; then the expected frames.

    An expected frame is that of the first camera at the remembered moment whose latent is nearest to the imagined one.
    """

    height = TILE + CAPTION

    def __init__(self, agent: Agent, memories: Memories, step_seconds: float, width: int):
        self.agent, self.memories, self.width, self.step = agent, memories, width, step_seconds
        self.cameras = [key for key in memories.frames]
        self.decision, self.expected = None, []

    def show(self, observation: Observation) -> np.ndarray:
        """The strip (height, width, 3) for what an environment shows now."""
        page = Image.new("RGB", (self.width, self.height), PAPER)
        ink, left = ImageDraw.Draw(page), GAP
        for key in self.cameras:
            there = bool(np.all(observation.get(naming.mask(key), True)))
            camera = key.removeprefix(naming.IMAGE_KEY_PREFIX)
            self._tile(page, ink, left, observation[key], f"{camera}{'' if there else ': missing'}", there)
            left += TILE + GAP
        for frame, seconds in self._expected():
            if left + TILE > self.width:
                break
            self._tile(page, ink, left, frame, f"in {seconds:.2g} s?", True)
            left += TILE + GAP
        return np.asarray(page)

    def _expected(self) -> list[tuple[np.ndarray, float]]:
        """The remembered frames nearest to what is imagined of the sentence decided, and in how many seconds each is
        expected; none of an agent that does not plan."""
        agent, decision = self.agent, self.agent.decision
        if agent.plan is None:
            return []
        if decision is not self.decision:
            sentence = decision.sentence(0)
            latents = imagined(agent.model, agent.plan.latent[0], sentence)
            frames = self.memories.frames[self.cameras[0]][self.memories.nearest(latents)]
            ends = [(t + 1) * agent.curve.length * self.step for t in range(len(sentence))]
            self.decision = decision
            self.expected = list(zip(frames.numpy(), ends, strict=True))
        return self.expected

    @staticmethod
    def _tile(
        page: Image.Image, ink: ImageDraw.ImageDraw, left: int, frame: np.ndarray, text: str, there: bool
    ) -> None:
        height, width = (max(1, round(TILE * side / max(frame.shape[:2]))) for side in frame.shape[:2])
        page.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST), (left, CAPTION))
        if not there:
            ink.rectangle((left, CAPTION, left + width - 1, CAPTION + height - 1), outline=MISSING, width=3)
        ink.text((left, 2), text, fill=INK if there else MISSING)
