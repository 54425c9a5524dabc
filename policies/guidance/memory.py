"""What an agent remembers, as guidance is made from it: latents, executed tokens, named quantities and episodes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from policies.tokens.curves import Curve
from worldmodel.guidance import Probes
from worldmodel.guidance_fit import Remembered
from worldmodel.model import WorldModel
from worldmodel.replay import Replay, window_at

AT_ONCE = 256
"""Moments encoded at a time."""


@dataclass(frozen=True)
class Memory:
    """N moments of a replay at which a token began: their latents (N, D) and quantities (N, Q), NaN where unknown.

    episode (N,): the number of each one's episode. names (Q,). step (N,): its control step within the episode.
    """

    remembered: Remembered
    quantities: Float[Tensor, "N Q"]
    names: tuple[str, ...]
    episode: Int[Tensor, " N"]
    step: Int[Tensor, " N"]

    @classmethod
    @torch.no_grad()
    def of(cls, replay: Replay, model: WorldModel, names: Sequence[str], most: int = 100_000) -> "Memory":
        """Encode the newest `most` moments of a replay whose tokens happened. Raises ValueError if it holds none."""
        env, row = in_order(replay)
        episode, step = numbered(replay, env, row)
        env, row, episode, step = (each[-most:] for each in (env, row, episode, step))
        curve = Curve.of_token(model.config.token, model.action_size)
        parts = []
        for e, r in zip(env.split(AT_ONCE), row.split(AT_ONCE), strict=True):
            window = window_at(replay, e, r, 1, curve.length)
            seen = model.preprocess(window.seen.map(lambda x: x.flatten(0, 1)))
            z = model.encode(seen).unflatten(0, (2, -1))
            parts.append(
                (z[0], curve.encode(window.action)[0], z[1], 1 - window.terminated[0].float(), window.valid[0])
            )
        z, token, following, continues, valid = (torch.cat(each) for each in zip(*parts, strict=True))
        kept = valid.bool()
        remembered = Remembered(z[kept], token[kept], following[kept], continues[kept])
        return cls(remembered, replay.quantities[env, row][kept], tuple(names), episode[kept], step[kept])

    def probes(self) -> Probes:
        """Fit a probe to each quantity."""
        return Probes.fit(self.names, self.remembered.z, self.quantities, self.episode)


def in_order(replay: Replay) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Return environment and row of every step held, environment by environment, the oldest first."""
    env, row = [], []
    for e, filled in enumerate(replay.filled.tolist()):
        rows = (int(replay.head[e]) - torch.arange(filled - 1, -1, -1)) % replay.rows
        rows = rows[~replay.final[e, rows]]
        env.append(torch.full_like(rows, e))
        row.append(rows)
    return torch.cat(env), torch.cat(row)


def numbered(
    replay: Replay, env: Int[Tensor, " N"], row: Int[Tensor, " N"]
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Return the number of the episode, from 0, and the step within it, of rows in the order of `in_order`."""
    before = (row - 1) % replay.rows
    first = torch.ones_like(row, dtype=torch.bool)
    first[1:] = (env[1:] != env[:-1]) | (before[1:] != row[:-1]) | replay.final[env[1:], before[1:]]
    episode = first.long().cumsum(0) - 1
    begins = torch.arange(len(row))[first]
    return episode, torch.arange(len(row)) - begins[episode]
