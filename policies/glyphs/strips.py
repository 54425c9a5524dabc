"""Strips over time: the control steps, each dimension of the action, the value and the imagined reward of a film."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

LABELS, COLUMN = 80, 2  # pixels: the words at the left; one control step
STEPS, ACTIONS, LANE, ROW = 16, 32, 4, 24  # pixels: heights of the strips, LANE the least of one action dimension
BLUE, GREEN, ORANGE, GREY, PALE = (0, 114, 178), (0, 158, 115), (213, 94, 0), (60, 60, 60), (225, 225, 225)
WANTED = (205, 235, 220)


@dataclass(frozen=True)
class Gauge:
    """A named quantity to draw, and the interval in which it is to be, if it is to be in one."""

    name: str
    unit: str = ""
    low: float = -np.inf
    high: float = np.inf


class Strips:
    """What an agent did and imagined, control step by control step; drawn, the newest steps that fit.

    Bars begin at 0. An action's lane shows -1 to 1; the scale of value and reward is that of all steps so far. Below
    them each gauge's quantity is a line before its interval, on the scale of both.
    """

    def __init__(self, step_seconds: float, gauges: Sequence[Gauge] = ()):
        self.step_seconds, self.gauges = step_seconds, gauges
        self.reported: list[Float[np.ndarray, " Q"]] = []
        self.actions: list[Float[np.ndarray, " A"]] = []
        self.imagined: list[tuple[float, float]] = []

    def add(
        self,
        action: Float[np.ndarray, " A"],
        value: float | None = None,
        reward: float | None = None,
        reported: Sequence[float] = (),
    ) -> None:
        """Add a control step: its action, its decision's value and reward (None: no planner), the gauges' values."""
        self.reported.append(np.asarray(reported, float))
        self.actions.append(np.asarray(action, float))
        self.imagined.append((np.nan if value is None else value, np.nan if reward is None else reward))

    def draw(self, width: int) -> UInt8[np.ndarray, "h width 3"]:
        """Draw the strips, whose height is a multiple of 16 and depends only on the action's size and the gauges."""
        count = max(1, (width - LABELS) // COLUMN)
        first = max(0, len(self.actions) - count)
        actions, imagined = np.array(self.actions), np.array(self.imagined)
        lane = max(LANE, ACTIONS // actions.shape[1])
        tall = lane * actions.shape[1]
        rows = 2 + len(self.gauges)
        page = np.full((-(-(STEPS + tall + rows * ROW) // 16) * 16, width, 3), 255, np.uint8)
        words = "action" if actions.shape[1] == 1 else f"actions 1 to {actions.shape[1]}"
        lanes = [(values, 1.0, BLUE, STEPS + lane * n, lane, "" if n else words) for n, values in enumerate(actions.T)]
        for n, (colour, words) in enumerate(((GREEN, "value"), (ORANGE, "imagined\nreward"))):
            number = "none" if np.isnan(imagined[-1, n]) else f"{imagined[-1, n]:.3g}"
            lanes.append((imagined[:, n], 0.0, colour, STEPS + tall + ROW * n, ROW, f"{words} {number}"))
        for values, least, colour, top, height, _ in lanes:
            known = values[np.isfinite(values)]
            low, high = min(-least, known.min(initial=0.0)), max(least, known.max(initial=0.0), 1e-6)
            covered = bars(values[first:], low, high, height - 1)[..., None]
            drawn = np.rint(255 - covered * (255 - np.array(colour))).astype(np.uint8)
            page[top : top + height - 1, LABELS : LABELS + COLUMN * covered.shape[1]] = drawn.repeat(COLUMN, 1)
            page[top + height - 1, LABELS:] = PALE
        labels = [(colour, top, words) for *_, colour, top, _, words in lanes if words]
        for n, gauge in enumerate(self.gauges, 2):
            top, values = STEPS + tall + ROW * n, np.array(self.reported)[:, n - 2]
            _draw_gauge(page[top : top + ROW - 1, LABELS:], gauge, values, first)
            labels.append((GREY, top, f"{gauge.name[:13]}\n{values[-1]:.3g} {gauge.unit}"))
        seconds = np.floor(np.arange(first, len(actions)) * self.step_seconds + 1e-6).astype(int)
        ticks = np.flatnonzero(np.diff(seconds, prepend=seconds[0]))
        at = LABELS + COLUMN * ticks
        page[:, at] = np.minimum(page[:, at], PALE)
        strips = Image.fromarray(page)
        strips.paste(GREY, (4, 2), _written(f"step {len(actions)}"))
        for left, second in zip(at, seconds[ticks], strict=True):
            strips.paste(GREY, (int(left) + 3, 2), _written(f"{second} s"))
        for colour, top, words in labels:
            strips.paste(colour, (4, top), _written(words))
        return np.asarray(strips)


def _draw_gauge(lane: UInt8[np.ndarray, "h w 3"], gauge: Gauge, values: Float[np.ndarray, " n"], first: int) -> None:
    """Draw a quantity from step `first` on into a lane, as a line before its interval."""
    ends = [end for end in (gauge.low, gauge.high) if np.isfinite(end)]
    seen = np.concatenate([values[np.isfinite(values)], ends])
    low, high = seen.min(initial=np.inf), seen.max(initial=-np.inf)
    margin = 0.1 * max(high - low, 1e-6) if seen.size else 0.0

    def row(value: Float[np.ndarray, " n"]) -> np.ndarray:
        share = (high + margin - value) / (high - low + 2 * margin)
        return np.clip(np.rint(share * (len(lane) - 1)), 0, len(lane) - 1).astype(int)

    if ends:
        upper, lower = row(np.clip([gauge.high, gauge.low], low - margin, high + margin))
        lane[upper : lower + 1] = WANTED
    shown = values[first:]
    at = np.flatnonzero(np.isfinite(shown))
    for column in range(COLUMN):
        lane[row(shown[at]), COLUMN * at + column] = BLUE


@lru_cache(512)
def _written(words: str) -> Image.Image:
    """Return words as a mask of ink; drawing letters takes longer than all the bars."""
    _, _, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), words, spacing=0)
    mask = Image.new("L", (int(right) + 1, int(bottom) + 1))
    ImageDraw.Draw(mask).text((0, 0), words, 255, spacing=0)
    return mask


def bars(values: Float[np.ndarray, " n"], low: float, high: float, height: int) -> Float[np.ndarray, "height n"]:
    """Return how much (0 to 1) of each pixel is covered by bars from 0 to `values`; NaN has no bar."""
    ends = height * (high - np.nan_to_num(values)) / (high - low)
    base = height * high / (high - low)
    rows = np.arange(height)[:, None]
    return np.clip(np.minimum(rows + 1, np.maximum(ends, base)) - np.maximum(rows, np.minimum(ends, base)), 0, 1)
