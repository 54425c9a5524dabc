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
    """Draws a strip `width` pixels wide, a row for each camera: its frame, in red where it is masked; then as many of
    the expected frames as have room.

    An expected frame is the camera's own at the remembered moment whose latent is nearest to the imagined one; there is
    none without `memories`.
    """

    def __init__(self, agent: Agent, memories: Memories | None, step_seconds: float, width: int):
        self.agent, self.memories, self.width, self.step = agent, memories, width, step_seconds
        self.cameras = [key for key in agent.model.senses if naming.is_image(key)]
        self.height = len(self.cameras) * (TILE + CAPTION)
        self.decision, self.expected = None, {}

    def show(self, observation: Observation) -> np.ndarray:
        """The strip (height, width, 3) for what an environment shows now."""
        page = Image.new("RGB", (self.width, self.height), PAPER)
        ink, expected = ImageDraw.Draw(page), self._expected()
        for row, key in enumerate(self.cameras):
            there = bool(np.all(observation.get(naming.mask(key), True)))
            at = GAP, row * (TILE + CAPTION)
            self._tile(page, ink, at, observation[key], key.removeprefix(naming.IMAGE_KEY_PREFIX), there)
            for n, (frame, seconds) in enumerate(expected.get(key, ()), 1):
                left = GAP + n * (TILE + GAP)
                if left + TILE > self.width:
                    break
                self._tile(page, ink, (left, at[1]), frame, f"in {seconds:.2g} s?", True)
        return np.asarray(page)

    def _expected(self) -> dict[str, list[tuple[np.ndarray, float]]]:
        """Of each camera the remembered frames nearest to what is imagined of the sentence decided, and in how many
        seconds each is expected; none of an agent that does not plan."""
        agent, decision = self.agent, self.agent.decision
        if agent.plan is None or self.memories is None:
            return {}
        if decision is not self.decision:
            sentence = decision.sentence(0)
            latents = imagined(agent.model, agent.plan.latent[0], sentence)
            ends = [(t + 1) * agent.curve.length * self.step for t in range(len(sentence))]
            self.decision = decision
            # Of a camera that never saw there are no frames, else one for each end.
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
        """A frame with a caption, whose left upper corner is there."""
        left, top = at[0], at[1] + CAPTION
        height, width = (max(1, round(TILE * side / max(frame.shape[:2]))) for side in frame.shape[:2])
        page.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST), (left, top))
        if not there:
            ink.rectangle((left, top, left + width - 1, top + height - 1), outline=MISSING, width=3)
        said = fitting(ink, text, "" if there else ": missing")
        ink.text((left, at[1] + 2), said, fill=INK if there else MISSING)


def fitting(ink: ImageDraw.ImageDraw, text: str, rest: str) -> str:
    """A text and what follows it, no wider than a tile: the text is cut short where it is too long."""
    said = text + rest
    while text and ink.textlength(said) > TILE:
        text = text[:-1]
        said = f"{text}…{rest}"
    return said
