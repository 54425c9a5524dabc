"""What jumps and glides as corners: an id says which channel, when, to what level, and in which manner."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from policies.codec.tracing import MANNERS, ROWS, progress, trace

NEAREST = 2  # levels that a corner may go to
STRICTER = 2.0  # times the worth of an id, where there are too many
ATTEMPTS = 8


@dataclass(frozen=True)
class Corners:
    """Strings of corners: gesture g takes channel `channel[g]` to `level[g]` (scaled) in the manner `manner[g]`.

    Id g x length + t - 1: gesture g is done at step t of 1 .. length, since the channel's corner before, or the start.
    After its last corner a channel stays. The ids that are left over say nothing; they end a string that needs no more.
    A string says most first, and a corner is written if it lowers the squared error of a chunk by `worth`.
    """

    channel: Int[np.ndarray, " G"]
    manner: Int[np.ndarray, " G"]
    level: Float[np.ndarray, " G"]
    length: int
    width: int
    ids: int
    worth: float

    switching = ()

    @property
    def rest(self) -> int:
        """The first id that says nothing."""
        return len(self.channel) * self.length

    def write(self, scaled: Float[np.ndarray, "N T D"], start: Float[np.ndarray, "N D"]) -> Int[np.ndarray, "N n"]:
        """The ids of chunks; `rest` where there is no more to say."""
        result = np.full((len(scaled), self.ids), self.rest)
        for first in range(0, len(scaled), max(1, ROWS // self.width)):
            rows = np.arange(first, min(len(scaled), first + max(1, ROWS // self.width)))
            worth = self.worth
            for attempt in range(ATTEMPTS):
                ids, saves = self._all_corners(scaled[rows], start[rows], worth)
                fits = (ids < self.rest).sum(1) <= self.ids
                if attempt == ATTEMPTS - 1:
                    fits[:] = True  # what matters least is left out
                order = np.argsort(-saves, axis=1, kind="stable")[:, : self.ids]
                result[rows[fits], : order.shape[1]] = np.take_along_axis(ids, order, 1)[fits]
                rows, worth = rows[~fits], worth * STRICTER
                if not len(rows):
                    break
        return result

    def read(
        self,
        ids: Int[np.ndarray, "N n"],
        start: Float[np.ndarray, "N D"],
        low: Float[np.ndarray, " D"],
        high: Float[np.ndarray, " D"],
    ) -> Float[np.ndarray, "N T D"]:
        """The chunks that any ids say, within `low` and `high`; of two corners in one place the later said holds."""
        count, steps = len(ids), self.length + 1
        level = np.zeros((count, self.width, steps))
        manner = np.zeros((count, self.width, steps), dtype=int)
        here = np.zeros((count, self.width, steps), dtype=bool)
        level[:, :, 0], here[:, :, 0] = start, True
        chunk, place = np.nonzero(ids < self.rest)
        gesture, at = np.divmod(ids[chunk, place], self.length)
        where = (chunk, self.channel[gesture], at + 1)
        level[where], manner[where], here[where] = self.level[gesture], self.manner[gesture], True
        every = np.arange(steps)
        before = np.maximum.accumulate(np.where(here, every, 0), axis=2)[:, :, :-1]
        after = np.minimum.accumulate(np.where(here, every, steps)[:, :, :0:-1], axis=2)[:, :, ::-1]
        until = np.minimum(after, steps - 1)
        held = np.take_along_axis(level, before, 2)
        share = (every[1:] - before) / np.maximum(until - before, 1)
        way = np.choose(np.take_along_axis(manner, until, 2), progress(share))
        moved = held + np.where(after < steps, way, 0) * (np.take_along_axis(level, until, 2) - held)
        return np.minimum(np.maximum(moved.transpose(0, 2, 1), low), high)

    def said(self, ids: Int[np.ndarray, "*B n"]) -> Int[np.ndarray, "*B"]:
        """How many ids there are before nothing but rest."""
        return np.asarray(((ids < self.rest) * np.arange(1, ids.shape[-1] + 1)).max(-1, initial=0))

    def _all_corners(self, scaled: np.ndarray, start: np.ndarray, worth: float) -> tuple[np.ndarray, np.ndarray]:
        """The ids (N, E) of all corners of the chunks, in no particular order, and what each saves."""
        count = len(scaled)
        signal = scaled.transpose(0, 2, 1).reshape(count * self.width, self.length)
        levels, gestures = self._tables
        channel = np.tile(np.arange(self.width), count)
        path = trace(signal, start.ravel(), levels[channel], np.full(len(signal), worth), NEAREST)
        gesture = gestures[channel[:, None], path.manner, path.which]
        ids = np.where(path.when > 0, gesture * self.length + path.when - 1, self.rest)
        saves = np.where(path.when > 0, path.saves, -np.inf)
        return ids.reshape(count, -1), saves.reshape(count, -1)

    @cached_property
    def _tables(self) -> tuple[Float[np.ndarray, "D M L"], Int[np.ndarray, "D M L"]]:
        """The levels of each channel and manner, infinite where there are no more, and the gestures they belong to."""
        groups = [
            [np.flatnonzero((self.channel == c) & (self.manner == m)) for m in range(len(MANNERS))]
            for c in range(self.width)
        ]
        most = max(len(group) for row in groups for group in row)
        gestures = np.array([[np.pad(g, (0, most - len(g)), constant_values=-1) for g in row] for row in groups])
        return np.where(gestures >= 0, self.level[gestures], np.inf), gestures
