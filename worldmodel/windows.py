"""Sampling windows of tokens from a replay.

A window stops at a final row. If the episode terminated there, the value beyond is zero; otherwise (time limit, the
ring's seam, the newest row) what follows is unknown, so the window's later tokens are invalid. Truncation is therefore
never mistaken for termination.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel import senses as naming
from worldmodel.frames import ages, unbroken
from worldmodel.observation import Observation
from worldmodel.replay import Replay
from worldmodel.senses import LANGUAGE_KEY


@dataclass(frozen=True)
class Window:
    """H consecutive tokens of L control steps each, for B starts.

    seen: observations (H+1, B) at the token boundaries; frames are stacks (H+1, B, F, height, width, 3) in the order
    of `lags`. Beyond the last known observation, that one is repeated.
    action (H, B, L, A) and reward (H, B, L): per control step. Where the steps stop within a token, its last action is
    held; rewards from there on, and the actions of later tokens, are zero.
    terminated (H, B): the episode terminated within this token or before it.
    valid (H, B): the token happened: all of its steps are known, or the episode terminated within it.
    planned_token (B, P): the token that the planner chose at the first step, before any exploration noise, where
    was_planned (B,) is True. demonstrated (B,): an expert took the first step.
    """

    seen: Observation
    action: Float[Tensor, "H B L A"]
    reward: Float[Tensor, "H B L"]
    terminated: Bool[Tensor, "H B"]
    valid: Bool[Tensor, "H B"]
    planned_token: Float[Tensor, "B P"]
    was_planned: Bool[Tensor, " B"]
    demonstrated: Bool[Tensor, " B"]


def sample_starts(
    replay: Replay, count: int, generator: torch.Generator
) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
    """Draw environment and row of `count` steps, uniformly over all steps held. Raises ValueError if there are none."""
    if not replay.steps:
        raise ValueError("the replay holds no step yet")
    env = torch.empty(count, dtype=torch.long)
    row = torch.empty(count, dtype=torch.long)
    todo = torch.arange(count)
    ends = replay.filled.cumsum(0)
    while len(todo):
        flat = torch.randint(int(ends[-1]), (len(todo),), generator=generator)
        e = torch.searchsorted(ends, flat, right=True)
        age = ends[e] - 1 - flat
        env[todo], row[todo] = e, (replay.head[e] - age) % replay.rows
        todo = todo[replay.final[env[todo], row[todo]]]
    return env, row


def sample_demonstrated_starts(
    replay: Replay, count: int, generator: torch.Generator
) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
    """Draw environment and row of `count` steps, uniformly over those of an expert; empty if there are none."""
    rows = replay.demonstrated_rows()
    held = rows.shape[1]
    env, row = rows[:, torch.randint(held, (count,), generator=generator) if held else slice(0)]
    return env, row


def sample_windows(
    replay: Replay, batch: int, horizon: int, length: int, generator: torch.Generator, demonstrated: float = 0.0
) -> Window:
    """Sample `batch` windows of `horizon` tokens of `length` steps, beginning at steps drawn uniformly.

    The share `demonstrated` of them begins at a step that an expert took, if there are any.
    """
    env, row = sample_demonstrated_starts(replay, round(demonstrated * batch), generator)
    others = sample_starts(replay, batch - len(env), generator)
    return window_at(replay, torch.cat([env, others[0]]), torch.cat([row, others[1]]), horizon, length)


def window_at(replay: Replay, env: Int[Tensor, " B"], row: Int[Tensor, " B"], horizon: int, length: int) -> Window:
    """Return the windows that begin at the given rows."""
    steps = horizon * length
    rows = (row + torch.arange(steps + 1).unsqueeze(1)) % replay.rows
    stopped = replay.final[env, rows].cumsum(0) > 0  # (steps + 1, B): True from the first row without a step
    known = ~stopped[:-1]
    ended = (replay.terminated[env, rows[:-1]] & known).cumsum(0) > 0
    by_token = known.view(horizon, length, -1)
    terminated = ended.view(horizon, length, -1)[:, -1]
    valid = by_token[:, 0] & (by_token[:, -1] | terminated)
    last_known = torch.where(stopped, -1, torch.arange(steps + 1).unsqueeze(1)).amax(0)
    at = torch.minimum(torch.arange(0, steps + 1, length).unsqueeze(1), last_known + 1)
    acted = (row + torch.minimum(torch.arange(steps).unsqueeze(1), last_known)) % replay.rows
    begun = by_token[:, :1].expand_as(by_token).reshape(steps, -1)
    return Window(
        seen=_show(replay, env, (row + at) % replay.rows),
        action=rearrange(replay.action[env, acted] * begun.unsqueeze(-1), "(h l) b a -> h b l a", l=length),
        reward=rearrange(replay.reward[env, rows[:-1]] * known, "(h l) b -> h b l", l=length),
        terminated=terminated,
        valid=valid,
        planned_token=replay.planned_token[env, row],
        was_planned=replay.was_planned[env, row],
        demonstrated=replay.demonstrated[env, row],
    )


def _show(replay: Replay, env: Int[Tensor, " B"], rows: Int[Tensor, "T B"]) -> Observation:
    """Return the observations at the given rows, each frame stacked with its `lags` predecessors."""
    values, flat = {}, (env * replay.rows + rows).flatten()
    for i, (key, column) in enumerate(replay.seen.items()):
        if naming.is_image(key):
            lagged = rows.unsqueeze(-1) - ages(unbroken(_usable(replay, i, env, rows)), replay.lags)
            flat_lagged = (env.view(1, -1, 1) * replay.rows + lagged % replay.rows).flatten()
            values[key] = column.flatten(0, 1).index_select(0, flat_lagged).view(*lagged.shape, *column.shape[2:])
        elif key == LANGUAGE_KEY:
            values[key] = torch.stack(replay.sentences)[column.flatten()[flat]].unflatten(0, rows.shape)
        else:
            values[key] = column.flatten(0, 1).index_select(0, flat).unflatten(0, rows.shape)
    present = replay.present.flatten(0, 1)[flat].unflatten(0, rows.shape)
    return Observation(values, dict(zip(values, present.unbind(-1), strict=True)))


def _usable(replay: Replay, sense: int, env: Int[Tensor, " B"], rows: Int[Tensor, "T B"]) -> Bool[Tensor, "T B K"]:
    """Return whether each of the K rows before, the newest first, has the same episode and sense number `sense`."""
    earlier = (rows.unsqueeze(-1) - torch.arange(1, max(replay.lags) + 1)) % replay.rows
    at = env.view(1, -1, 1), earlier
    return ~replay.final[at] & replay.present[(*at, sense)]  # a final row belongs to another episode
