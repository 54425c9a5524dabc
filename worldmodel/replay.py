"""Replay: raw control steps in preallocated arrays, one ring per environment, from which windows of tokens are drawn.

Steps are available as soon as they are added. A window stops at a final row. If the episode terminated there, the value
beyond is zero; otherwise (time limit, the ring's seam, the newest row) what follows is unknown, so the window's later
tokens are invalid. Truncation is therefore never mistaken for termination.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel import senses as naming
from worldmodel.errors import UserError
from worldmodel.observation import Observation, ages, unbroken
from worldmodel.senses import LANGUAGE_KEY, Shapes


class ReplayMismatch(UserError):
    """Raised when a saved replay has a different size or different senses."""


class Replay:
    """A ring buffer of rows (an observation, the step from it) for each of E environments; `final`: no step."""

    def __init__(
        self,
        capacity: int,
        envs: int,
        senses: Shapes,
        action_size: int,
        token_size: int | None = None,
        lags: Sequence[int] = (0,),
        quantities: int = 0,
    ):
        """Allocate room for about `capacity` steps in total, of which the newest are kept.

        `token_size` P defaults to the action's size. Each frame is stored once, as bytes; `lags` are the ages, in
        control steps, of the frames that a window stacks. Frames from before the episode began are replaced with its
        first; those from before a gap in the sense, with the first after it. For language, rows hold the index of a
        sentence. `quantities`: how many named quantities, which nothing perceives, are kept with each observation.
        Raises ValueError if `capacity` is below one step per environment or does not fit in memory.
        """
        self.rows = capacity // envs + 1
        if self.rows < 2:
            raise UserError(f"replay.capacity={capacity}: at least 1 step for each of {envs} environments")
        naming.check(senses)
        self.senses, self.lags = dict(senses), tuple(lags)
        sizes = envs, self.rows
        self.seen = {key: _column(key, shape, sizes) for key, shape in senses.items()}
        self.present = _room("masks", (*sizes, len(senses)), bool)
        self.sentences: list[Tensor] = []
        self.action = _room("actions", (*sizes, action_size))
        self.reward = _room("rewards", sizes)
        self.planned_token = _room("plans", (*sizes, token_size or action_size))
        self.quantities = _room("quantities", (*sizes, quantities))
        self.was_planned, self.demonstrated = (_room("marks", sizes, bool) for _ in range(2))
        self.terminated, self.final = (_room("marks", sizes, bool) for _ in range(2))
        self.final.fill_(True)
        self.head = torch.full((envs,), -1)  # row of the newest observation, -1 before the first
        self.filled = torch.zeros(envs, dtype=torch.long)
        self._all = torch.arange(envs)
        self.steps = 0  # number of rows that hold a step
        self._shown: Tensor | None = None  # (2, N), cached `demonstrated_rows`; None: stale

    @classmethod
    def read(cls, saved: dict[str, Tensor], senses: Shapes, lags: Sequence[int]) -> "Replay":
        """Build a replay of the saved size and load `saved`. Raises ReplayMismatch if it holds other senses."""
        envs, rows = len(saved["head"]), int(saved["rows"])
        sizes = saved["action"].shape[-1], saved["planned_token"].shape[-1]
        quantities = saved["quantities"].shape[-1] if "quantities" in saved else 0
        replay = cls((rows - 1) * envs, envs, senses, *sizes, lags, quantities)
        replay.load_state_dict(saved)
        return replay

    def __len__(self) -> int:
        return int(self.filled.sum())

    def start(
        self, begun: Bool[Tensor, " E"], observation: Observation, quantities: Float[Tensor, "E Q"] | None = None
    ) -> None:
        """Begin an episode in the environments marked, with its first observation; frames are single, not stacked."""
        self._push(begun.nonzero()[:, 0], observation, quantities)

    def add(
        self,
        observation: Observation,
        action: Float[Tensor, "E A"],
        reward: Float[Tensor, " E"],
        terminated: Bool[Tensor, " E"],
        planned_token: Float[Tensor, "E P"] | None = None,
        planned: Bool[Tensor, " E"] | None = None,
        demonstrated: Bool[Tensor, " E"] | None = None,
        known: Bool[Tensor, " E"] | None = None,
        quantities: Float[Tensor, "E Q"] | None = None,
    ) -> None:
        """Add one step of every environment: the action taken from its newest observation, and what followed.

        `observation`: the next one. `planned_token`: the token that the planner chose at this step, where `planned`.
        `demonstrated`: whether an expert took the step. `known`: where there was a step at all, if not everywhere;
        elsewhere the newest observation stays the last of its episode, as at a time limit. `quantities`: those of
        `observation`. Raises ValueError if an environment has begun no episode.
        """
        if bool((self.head < 0).any()):
            env = int((self.head < 0).nonzero()[0])
            raise ValueError(f"environment {env}: no episode has begun; its first observation is needed before a step")
        envs = self._all if known is None else known.nonzero()[:, 0]
        at = envs, self.head[envs]
        self.action[at], self.reward[at], self.terminated[at] = action[envs], reward[envs], terminated[envs]
        self.was_planned[at] = False if planned is None else planned[envs]
        if planned_token is not None and planned is not None and bool(planned.any()):
            own = self.planned_token[at]
            self.planned_token[at] = torch.where(planned[envs].unsqueeze(1), planned_token[envs], own)
        if demonstrated is not None and bool(demonstrated.any()):
            self.demonstrated[at], self._shown = demonstrated[envs], None
        self.final[at] = False
        self.steps += len(envs)
        self._push(envs, observation, quantities)

    def insert(
        self,
        env: int,
        seen: Observation,
        action: Float[Tensor, "T A"],
        reward: Float[Tensor, " T"],
        shown: Tensor,
        planned: Float[Tensor, "T P"] | None = None,
    ) -> None:
        """Store a whole episode of T steps and T + 1 observations. `shown` (T,): an expert's; `planned`: it wanted."""
        rows = (self.head[env] + 1 + torch.arange(len(seen))) % self.rows
        whole, at, self._shown = (torch.full_like(rows, env), rows), (env, rows[:-1]), None
        self.steps += len(action) - int((~self.final[whole]).sum())
        self._see(whole, seen)
        self.quantities[whole] = math.nan
        self.was_planned[whole] = self.terminated[whole] = self.demonstrated[whole] = False
        self.final[whole] = rows == rows[-1]
        self.action[at], self.reward[at], self.demonstrated[at] = action, reward, shown
        if planned is not None:
            self.was_planned[at], self.planned_token[at] = True, planned
        self.head[env], self.filled[env] = rows[-1], min(int(self.filled[env]) + len(seen), self.rows)

    def rewarded(self) -> float:
        """Return the share of steps whose reward is not the median, i.e. how often a rare one comes; NaN if empty."""
        rewards = self.reward[~self.final]
        return float((rewards != rewards.median()).float().mean()) if self.steps else math.nan

    def demonstrated_rows(self) -> Int[Tensor, "2 N"]:
        """Return environment and row of every step that an expert took."""
        if self._shown is None:
            self._shown = self.demonstrated[:, : int(self.filled.max())].nonzero().T.contiguous()
        return self._shown

    def _push(self, envs: Int[Tensor, " N"], observation: Observation, quantities: Tensor | None) -> None:
        """Write the newest observation of these environments to the next row of each."""
        rows = (self.head[envs] + 1) % self.rows
        at = envs, rows
        self._see(at, observation.map(lambda x: x[envs]))
        self.quantities[at] = math.nan if quantities is None else quantities[envs]
        self.steps -= int((~self.final[at]).sum())  # the ring's oldest steps, if this overwrites them
        self.final[at] = True
        if bool(self.demonstrated[at].any()):
            self.demonstrated[at], self._shown = False, None
        self.head[envs] = rows
        self.filled[envs] = (self.filled[envs] + 1).clamp(max=self.rows)

    def _see(self, at: tuple[Int[Tensor, " N"], Int[Tensor, " N"]], observation: Observation) -> None:
        """Write N observations to these environments and rows."""
        for i, (key, column) in enumerate(self.seen.items()):
            value = observation.values[key]
            column[at] = torch.tensor(list(map(self._sentence, value))).int() if key == LANGUAGE_KEY else value
            self.present[(*at, i)] = observation.present[key]

    def _sentence(self, vector: Float[Tensor, " T"]) -> int:
        """Return the index of a sentence, given its vector; register it if new."""
        for i, known in enumerate(self.sentences):
            if torch.equal(known, vector):
                return i
        self.sentences.append(vector.clone())
        return len(self.sentences) - 1

    def state_dict(self) -> dict[str, Tensor]:
        """Return the whole contents as tensors, without rows that were never written."""
        used = int(self.filled.max())
        columns = self._columns()
        rows = {name: column[:, :used].contiguous() for name, column in columns.items()}
        if self.sentences:
            rows["sentences"] = torch.stack(self.sentences)
        return rows | {"head": self.head, "filled": self.filled, "rows": torch.tensor(self.rows)}

    def _columns(self) -> dict[str, Tensor]:
        """Return every column by the name it is saved under."""
        named = {"quantities": self.quantities} if self.quantities.shape[-1] else {}
        return self.seen | {name: getattr(self, name) for name in _ROWS} | named

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned. Raises ReplayMismatch if sizes or columns differ."""
        columns, self._shown = self._columns(), None
        sizes = {name: tuple(saved[name].shape[2:]) if name in saved else None for name in columns}
        own = {name: tuple(column.shape[2:]) for name, column in columns.items()}
        size, own_size = (len(saved["head"]), int(saved["rows"])), (len(self.head), self.rows)
        if size != own_size:
            raise ReplayMismatch(f"the saved replay has (environments, rows) {size}, this one {own_size}")
        if differing := [f"{name} {sizes[name]}, not {own[name]}" for name in own if sizes[name] != own[name]]:
            raise ReplayMismatch(f"the saved replay has {'; '.join(differing)}")
        self.final.fill_(True)  # of rows that were not saved, nothing is held
        for name, column in columns.items():
            column[:, : saved[name].shape[1]] = saved[name]
        self.sentences = list(saved["sentences"]) if "sentences" in saved else []
        self.head.copy_(saved["head"])
        self.filled.copy_(saved["filled"])
        self.steps = int((~self.final).sum())


def _column(key: str, shape: tuple[int, ...], rows: tuple[int, int]) -> Tensor:
    """Allocate the column of one sense; for language, of sentence indices."""
    kind = np.uint8 if naming.is_image(key) else np.int32 if key == LANGUAGE_KEY else np.float32
    return _room(key, rows if key == LANGUAGE_KEY else (*rows, *shape), kind)


def _room(what: str, sizes: tuple[int, ...], kind: type = np.float32) -> Tensor:
    """Allocate zeros with NumPy: pages never written take no memory, whereas `torch.zeros` would write them all."""
    try:
        return torch.from_numpy(np.zeros(sizes, kind))
    except MemoryError as error:
        gigabytes = math.prod(sizes) * np.dtype(kind).itemsize / 1e9
        raise UserError(f"replay of {what}: no room for {gigabytes:.0f} GB; fewer steps or smaller frames") from error


_ROWS = ("present", "action", "reward", "planned_token", "was_planned", "demonstrated", "terminated", "final")
"""Names of the columns other than those of the senses."""


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
    """Sample windows from steps drawn uniformly, a share `demonstrated` of them from an expert's, if there are any."""
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
