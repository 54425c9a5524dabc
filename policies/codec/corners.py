"""Signals that jump and glide, written as corners: an id names a channel, a time, a level and a manner."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from policies.codec.tracing import MANNERS, ROWS, progress, trace

NEAREST = 2  # number of levels considered for a corner, those nearest to the signal
STRICTER = 2.0  # factor on `worth` for each further attempt on a chunk with too many corners
ATTEMPTS = 8


@dataclass(frozen=True)
class Corners:
    """Strings of corners: gesture g takes channel `channel[g]` to `level[g]` (scaled) in the manner `manner[g]`.

    Id g x length + t - 1 completes gesture g at step t of 1 .. length; the gesture begins at the channel's previous
    corner, or at the start of the chunk. After its last corner a channel stays at its level. Ids from `rest` on carry
    no information and pad a string that needs no more. A string lists the corners that save most first, and a corner is
    written only if it lowers the squared error of a chunk by `worth`. `width`: D, the number of channels.
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
        """The first id that carries no information, used as padding."""
        return len(self.channel) * self.length

    def write(self, scaled: Float[np.ndarray, "N T D"], start: Float[np.ndarray, "N D"]) -> Int[np.ndarray, "N n"]:
        """Return the ids of scaled chunks, padded with `rest`.

        Chunks with more corners than ids are traced again with a higher `worth`, up to ATTEMPTS times.
        """
        result = np.full((len(scaled), self.ids), self.rest)
        for first in range(0, len(scaled), max(1, ROWS // self.width)):
            rows = np.arange(first, min(len(scaled), first + max(1, ROWS // self.width)))
            worth = self.worth
            for attempt in range(ATTEMPTS):
                ids, saves = self._all_corners(scaled[rows], start[rows], worth)
                fits = (ids < self.rest).sum(1) <= self.ids
                if attempt == ATTEMPTS - 1:
                    fits[:] = True  # the corners that save least are dropped
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
        """Return the chunks of any ids, clamped to `low` and `high`.

        Of two corners of a channel at the same step, the one later in the string counts.
        """
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
        """Return the number of ids before the trailing padding."""
        return np.asarray(((ids < self.rest) * np.arange(1, ids.shape[-1] + 1)).max(-1, initial=0))

    def _all_corners(self, scaled: np.ndarray, start: np.ndarray, worth: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids (N, E) of all corners of the chunks, unordered and padded, and the error each saves (N, E)."""
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
        """The levels of each channel and manner, and the gestures they belong to; padded with infinity and -1."""
        groups = [
            [np.flatnonzero((self.channel == c) & (self.manner == m)) for m in range(len(MANNERS))]
            for c in range(self.width)
        ]
        most = max(1, *(len(group) for row in groups for group in row))
        gestures = np.array([[np.pad(g, (0, most - len(g)), constant_values=-1) for g in row] for row in groups])
        levels = np.full(gestures.shape, np.inf)
        levels[gestures >= 0] = self.level[gestures[gestures >= 0]]
        return levels, gestures
