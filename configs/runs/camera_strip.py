"""The strip below a video: each camera's current frame and, beside it, frames from memory of what is expected next."""

import numpy as np
from PIL import Image, ImageDraw

from policies.agent import Agent, Decision
from policies.nearest_frames import NearestFrames, imagined
from worldmodel import senses as naming
from worldmodel.observation import Observation

TILE, CAPTION, GAP = 80, 16, 4  # pixels; a frame's longer side is scaled to TILE
MISSING, INK, PAPER = (200, 40, 40), (60, 60, 60), (255, 255, 255)


class Strip:
    """Draws a strip `width` pixels wide with a row per camera: its frame, then as many expected frames as fit.

    A frame that is masked as missing gets a red outline. An expected frame is the camera's own frame at the remembered
    moment whose latent is nearest to the imagined one; without `memories` there is none.
    """

    def __init__(self, agent: Agent, memories: NearestFrames | None, step_seconds: float, width: int):
        self.agent, self.memories, self.width, self.step = agent, memories, width, step_seconds
        self.cameras = [key for key in agent.model.senses if naming.is_image(key)]
        self.height = len(self.cameras) * (TILE + CAPTION)
        self.decision: Decision | None = None
        self.expected: dict[str, list[tuple[np.ndarray, float]]] = {}

    def show(self, observation: Observation) -> np.ndarray:
        """Return the strip (height, width, 3) for the current observation of one environment."""
        page = Image.new("RGB", (self.width, self.height), PAPER)
        ink, expected = ImageDraw.Draw(page), self._expected()
        for row, key in enumerate(self.cameras):
            there = bool(observation.present[key])
            at = GAP, row * (TILE + CAPTION)
            self._tile(
                page, ink, at, observation.values[key][0].numpy(), key.removeprefix(naming.IMAGE_KEY_PREFIX), there
            )
            for n, (frame, seconds) in enumerate(expected.get(key, ()), 1):
                left = GAP + n * (TILE + GAP)
                if left + TILE > self.width:
                    break
                self._tile(page, ink, (left, at[1]), frame, f"in {seconds:.2g} s?", True)
        return np.asarray(page)

    def _expected(self) -> dict[str, list[tuple[np.ndarray, float]]]:
        """Return for each camera the expected frames, and in how many seconds from the decision each is expected.

        They are the remembered frames nearest to the latents imagined at the end of each token of the decision. Empty
        if the agent does not plan, or without memories.
        """
        agent, decision = self.agent, self.agent.decision
        if agent.plan is None or decision is None or self.memories is None:
            return {}
        if decision is not self.decision:
            sentence = decision.plan(0)
            latents = imagined(agent.model, agent.plan.latent[0], sentence)
            ends = [(t + 1) * agent.curve.length * self.step for t in range(len(sentence))]
            self.decision = decision
            # A camera that never saw anything has no frames; any other has one per token end.
            self.expected = {
                key: list(zip(self.memories.expected(key, latents).numpy(), ends, strict=False)) for key in self.cameras
            }
        return self.expected

    @staticmethod
    def _tile(
        page: Image.Image,
        ink: ImageDraw.ImageDraw,
        at: tuple[int, int],
        frame: np.ndarray,
        text: str,
        there: bool,
    ) -> None:
        """Draw a caption and, below it, a frame. `at`: the upper left corner; `there`: False for a missing frame."""
        left, top = at[0], at[1] + CAPTION
        height, width = (max(1, round(TILE * side / max(frame.shape[:2]))) for side in frame.shape[:2])
        page.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST), (left, top))
        if not there:
            ink.rectangle((left, top, left + width - 1, top + height - 1), outline=MISSING, width=3)
        said = fitting(ink, text, "" if there else ": missing")
        ink.text((left, at[1] + 2), said, fill=INK if there else MISSING)


def fitting(ink: ImageDraw.ImageDraw, text: str, rest: str) -> str:
    """Return `text` + `rest`, with `text` shortened by an ellipsis if needed to be no wider than a tile."""
    said = text + rest
    while text and ink.textlength(said) > TILE:
        text = text[:-1]
        said = f"{text}…{rest}"
    return said
