"""Chunks written as curves, plus events in the channels that switch: every id refines the whole chunk."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from policies.codec.bits import IdString
from policies.codec.companding import Trees
from policies.codec.script import Script
from policies.codec.strokes import Strokes
from policies.codec.switches import Switches


@dataclass(frozen=True)
class Curves:
    """A chunk as the sum of its start, the events of `switches` and a curve of `strokes`.

    The numbers of events and curve are quantized to cells of `trees`; the bits of the cells make up the `string`, in
    the same order for all chunks.
    """

    strokes: Strokes
    switches: Switches
    trees: Trees
    string: IdString

    @property
    def switching(self) -> tuple[int, ...]:
        """The channels whose jumps are written as events."""
        return self.switches.channels

    def write(self, scaled: Float[np.ndarray, "N T D"], start: Float[np.ndarray, "N D"]) -> Int[np.ndarray, "N n"]:
        """Return the ids of scaled chunks."""
        happening = self._script.cells(self.switches.numbers(scaled, start))
        smooth = scaled - start[:, None]
        if self.switches.count:
            smooth -= self.switches.signal(self._script.rounded(happening), start)
        drawn = self._script.cells(self.strokes.numbers(smooth, start), self.switches.count)
        return self._script.write(np.concatenate([happening, drawn], axis=1))

    def read(
        self,
        ids: Int[np.ndarray, "N n"],
        start: Float[np.ndarray, "N D"],
        low: Float[np.ndarray, " D"],
        high: Float[np.ndarray, " D"],
    ) -> Float[np.ndarray, "N T D"]:
        """Return the chunks of any ids, clamped to `low` and `high`."""
        numbers, count = self._script.read(ids), self.switches.count
        if not count:
            return self.strokes.curve(numbers, start, low, high)
        # In switching channels the curve is not clamped by itself, only its sum with the events.
        chunk = self.strokes.curve(numbers[:, count:], start, low - self._far, high + self._far)
        chunk += self.switches.signal(numbers[:, :count], start)
        np.maximum(chunk, low, out=chunk)
        return np.minimum(chunk, high, out=chunk)

    def said(self, ids: Int[np.ndarray, "*B n"]) -> Int[np.ndarray, "*B"]:
        """Return the full length of each string: every id carries information."""
        return np.full(ids.shape[:-1], ids.shape[-1])

    @cached_property
    def _script(self) -> Script:
        return Script(self.trees, self.string)

    @cached_property
    def _far(self) -> np.ndarray:
        """Slack (D,) of a curve's bounds: infinite in the channels that switch, 0 in the others."""
        return np.where(np.isin(np.arange(self.switches.width), self.switches.channels), np.inf, 0.0)
