"""Replay: raw control steps in preallocated arrays, usable the moment they are added; samples windows of tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel import senses as naming
from worldmodel.senses import LANGUAGE, Shapes


@dataclass(frozen=True)
class Window:
    """H consecutive tokens of L control steps each, for B starts.

    seen: at the token boundaries, by its key: each (H+1, B, ...), frames (H+1, B, F, height, width, 3), newest and
    older as `lags` says; where anything was missing, every sense's `mask.<sense>` (H+1, B, 1) beside it.
    action (H, B, L, A) and reward (H, B, L): per control step. Where the steps stop within a token its last action is
    held, as what was done; rewards from there on, and the actions of later tokens, are zero.
    terminated (H, B): the episode ended within this token or before it.
    valid (H, B): the token happened: all of its steps are known, or it ended by termination, and none before it ended.
    choice (B, P): the token that the planner chose for the first step, before any exploration; chose (B,): it did.
    driven (B,): an expert took the first step.
    """

    seen: dict[str, Tensor]
    action: Float[Tensor, "H B L A"]
    reward: Float[Tensor, "H B L"]
    terminated: Bool[Tensor, "H B"]
    valid: Bool[Tensor, "H B"]
    choice: Float[Tensor, "B P"]
    chose: Bool[Tensor, " B"]
    driven: Bool[Tensor, " B"]


class Replay:
    """One ring of rows for each of E environments.

    A row is an observation and the step taken from it. The newest row has no step yet, and the last observation of an
    episode never gets one: such rows are marked `final`. A window stops at a final row: by `terminated`, the value
    beyond is zero; otherwise (time limit, ring's seam, the present) nothing is known of what follows, so the window's
    later tokens are invalid. Truncation is therefore never mistaken for termination.
    """

    def __init__(
        self,
        capacity: int,
        envs: int,
        senses: Shapes,
        action_size: int,
        token_size: int | None = None,
        lags: Sequence[int] = (0,),
    ):
        """Keep the newest `capacity` steps in all; raises ValueError for too few to use or too many to have room for.

        `token_size` P is the action's size unless given. Each frame is kept once, as bytes; `lags`: of how many steps
        ago the frames are that a window shows at once; those of before an episode are its first, and those of before
        one that is missing the first after that. Of the language, rows keep the number of a sentence.
        """
        self.rows = capacity // envs + 1
        if self.rows < 2:
            raise ValueError(f"replay.capacity={capacity}: at least 1 step for each of {envs} environments")
        naming.check(senses)
        self.senses, self.lags = dict(senses), tuple(lags)
        sizes = envs, self.rows
        self.seen = {key: _column(key, shape, sizes) for key, shape in senses.items()}
        self.present = _room("masks", (*sizes, len(senses)), bool)
        self.sentences: list[Tensor] = []
        self.action = _room("actions", (*sizes, action_size))
        self.reward = _room("rewards", sizes)
        self.choice = _room("plans", (*sizes, token_size or action_size))
        self.chose, self.driven, self.terminated, self.final = (_room("marks", sizes, bool) for _ in range(4))
        self.final.fill_(True)
        self.head = torch.full((envs,), -1)  # row of the newest observation
        self.filled = torch.zeros(envs, dtype=torch.long)
        self.steps = 0  # rows that hold a step
        self._shown: Tensor | None = None  # (2, N): where an expert's steps are; None: to be found

    @classmethod
    def read(cls, saved: dict[str, Tensor], senses: Shapes, lags: Sequence[int]) -> "Replay":
        """A replay of the size that gave `saved`. Raises ValueError, KeyError if it did not perceive these senses."""
        envs, rows = len(saved["head"]), int(saved["rows"])
        sizes = saved["action"].shape[-1], saved["choice"].shape[-1]
        replay = cls((rows - 1) * envs, envs, senses, *sizes, lags)
        replay.load_state_dict(saved)
        return replay

    def __len__(self) -> int:
        """Rows that hold an observation, over all environments."""
        return int(self.filled.sum())

    def start(self, env: int, seen: dict[str, Tensor]) -> None:
        """Begin an episode with its first observation: of each sense, one value, and perhaps its mask."""
        self._push(env, seen)

    def add(
        self,
        env: int,
        action: Float[Tensor, " A"],
        reward: float,
        seen: dict[str, Tensor],
        terminated: bool,
        choice: Float[Tensor, " P"] | None = None,
        driven: bool = False,
    ) -> None:
        """Add one step: the action taken from the newest observation, its reward, what was seen next.

        `choice`: the token that the planner chose at this step, if it did. `driven`: an expert took it. Raises
        ValueError where no episode has begun.
        """
        row = int(self.head[env])
        if row < 0:
            raise ValueError(f"environment {env}: no episode has begun; its first observation is needed before a step")
        self.action[env, row] = action
        self.reward[env, row] = reward
        self.chose[env, row] = choice is not None
        if choice is not None:
            self.choice[env, row] = choice
        if driven:
            self.driven[env, row], self._shown = True, None
        self.terminated[env, row] = terminated
        self.final[env, row] = False
        self.steps += 1
        self._push(env, seen)

    def _push(self, env: int, seen: dict[str, Tensor]) -> None:
        row = (int(self.head[env]) + 1) % self.rows
        for i, (key, column) in enumerate(self.seen.items()):
            mask = seen.get(naming.mask(key))
            self.present[env, row, i] = key in seen and (mask is None or bool(mask))
            if key not in seen:
                column[env, row] = 0
            else:
                column[env, row] = self._sentence(seen[key]) if key == LANGUAGE else seen[key]
        self.steps -= not bool(self.final[env, row])  # the ring's oldest, if it comes round
        self.final[env, row] = True
        if self.driven[env, row]:
            self.driven[env, row], self._shown = False, None
        self.terminated[env, row] = False
        self.head[env] = row
        self.filled[env] = min(int(self.filled[env]) + 1, self.rows)

    def _sentence(self, vector: Float[Tensor, " T"]) -> int:
        """The number of a sentence."""
        for i, known in enumerate(self.sentences):
            if torch.equal(known, vector):
                return i
        self.sentences.append(vector.clone())
        return len(self.sentences) - 1

    def starts(self, count: int, generator: torch.Generator) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
        """Environment and row of `count` steps, uniform over all steps held. Raises ValueError when there are none."""
        if not self.steps:
            raise ValueError("the replay holds no step yet")
        env = torch.empty(count, dtype=torch.long)
        row = torch.empty(count, dtype=torch.long)
        todo = torch.arange(count)
        ends = self.filled.cumsum(0)
        while len(todo):
            flat = torch.randint(int(ends[-1]), (len(todo),), generator=generator)
            e = torch.searchsorted(ends, flat, right=True)
            age = ends[e] - 1 - flat
            env[todo], row[todo] = e, (self.head[e] - age) % self.rows
            todo = todo[self.final[env[todo], row[todo]]]
        return env, row

    def demonstrated(self, count: int, generator: torch.Generator) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
        """Environment and row of `count` steps, uniform over those that an expert took; none where there are none."""
        if self._shown is None:
            self._shown = self.driven.nonzero().T.contiguous()
        held = self._shown.shape[1]
        env, row = self._shown[:, torch.randint(held, (count,), generator=generator) if held else slice(0)]
        return env, row

    def sample(
        self, batch: int, horizon: int, length: int, generator: torch.Generator, demonstrated: float = 0.0
    ) -> Window:
        """Windows of `horizon` tokens of `length` steps, from steps drawn uniformly.

        The share `demonstrated` of them begins with a step that an expert took, if there are any.
        """
        env, row = self.demonstrated(round(demonstrated * batch), generator)
        others = self.starts(batch - len(env), generator)
        return self.window(torch.cat([env, others[0]]), torch.cat([row, others[1]]), horizon, length)

    def window(self, env: Int[Tensor, " B"], row: Int[Tensor, " B"], horizon: int, length: int) -> Window:
        """The windows that start at the given rows."""
        steps = horizon * length
        rows = (row + torch.arange(steps + 1).unsqueeze(1)) % self.rows
        stopped = self.final[env, rows].cumsum(0) > 0  # (steps + 1, B): no step is known from here on
        known = ~stopped[:-1]
        ended = (self.terminated[env, rows[:-1]] & known).cumsum(0) > 0
        by_token = known.view(horizon, length, -1)
        terminated = ended.view(horizon, length, -1)[:, -1]
        valid = by_token[:, 0] & (by_token[:, -1] | terminated)
        last_known = torch.where(stopped, -1, torch.arange(steps + 1).unsqueeze(1)).amax(0)
        at = torch.minimum(torch.arange(0, steps + 1, length).unsqueeze(1), last_known + 1)
        acted = (row + torch.minimum(torch.arange(steps).unsqueeze(1), last_known)) % self.rows
        begun = by_token[:, :1].expand_as(by_token).reshape(steps, -1)
        shape = (horizon, length, len(row))
        return Window(
            seen=self._show(env, (row + at) % self.rows),
            action=(self.action[env, acted] * begun.unsqueeze(-1)).view(*shape, -1).transpose(1, 2),
            reward=(self.reward[env, rows[:-1]] * known).view(shape).transpose(1, 2),
            terminated=terminated,
            valid=valid,
            choice=self.choice[env, row],
            chose=self.chose[env, row],
            driven=self.driven[env, row],
        )

    def _show(self, env: Int[Tensor, " B"], rows: Int[Tensor, "T B"]) -> dict[str, Tensor]:
        """What was seen at some rows, frames with those before them."""
        shown, flat = {}, (env * self.rows + rows).flatten()
        for i, (key, column) in enumerate(self.seen.items()):
            if naming.is_image(key):
                lagged = torch.stack([self._before(i, env, rows, lag) for lag in self.lags], -1)
                flat_lagged = (env.view(1, -1, 1) * self.rows + lagged).flatten()
                shown[key] = column.flatten(0, 1).index_select(0, flat_lagged).view(*lagged.shape, *column.shape[2:])
            elif key == LANGUAGE:
                shown[key] = torch.stack(self.sentences)[column.flatten()[flat]].unflatten(0, rows.shape)
            else:
                shown[key] = column.flatten(0, 1).index_select(0, flat).unflatten(0, rows.shape)
        present = self.present.flatten(0, 1)[flat].unflatten(0, rows.shape)
        if not bool(present.all()):
            masks = present.float().split(1, -1)
            shown |= {naming.mask(key): here for key, here in zip(self.seen, masks, strict=True)}
        return shown

    def _before(self, sense: int, env: Int[Tensor, " B"], rows: Int[Tensor, "T B"], lag: int) -> Int[Tensor, "T B"]:
        """The rows `lag` steps earlier, or where the episode began or the sense of that number came back."""
        back, going = torch.zeros_like(rows), torch.ones_like(rows, dtype=torch.bool)
        for i in range(1, lag + 1):
            earlier = (rows - i) % self.rows
            # a final row belongs to another episode
            going = going & ~self.final[env, earlier] & self.present[env, earlier, sense]
            back += going
        return (rows - back) % self.rows

    def state_dict(self) -> dict[str, Tensor]:
        """Everything held, as tensors; rows never written are left out."""
        used = int(self.filled.max())
        columns = self._columns()
        rows = {name: column[:, :used].contiguous() for name, column in columns.items()}
        if self.sentences:
            rows["sentences"] = torch.stack(self.sentences)
        return rows | {"head": self.head, "filled": self.filled, "rows": torch.tensor(self.rows)}

    def _columns(self) -> dict[str, Tensor]:
        """Every column, by the name it is saved under."""
        return self.seen | {name: getattr(self, name) for name in _ROWS}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Take back what `state_dict` gave. Raises ValueError if the sizes differ."""
        saved = {"driven": torch.zeros_like(saved["chose"])} | saved  # not in those of before there were any
        columns, self._shown = self._columns(), None
        sizes = {name: tuple(saved[name].shape[2:]) if name in saved else None for name in columns}
        own = {name: tuple(column.shape[2:]) for name, column in columns.items()}
        seats = (len(saved["head"]), int(saved["rows"])), (len(self.head), self.rows)
        if seats[0] != seats[1]:
            raise ValueError(f"the saved replay has (environments, rows) {seats[0]}, this one {seats[1]}")
        if differing := [f"{name} {sizes[name]}, not {own[name]}" for name in own if sizes[name] != own[name]]:
            raise ValueError(f"the saved replay has {'; '.join(differing)}")
        for name, column in columns.items():
            column[:, : saved[name].shape[1]] = saved[name]
        self.sentences = list(saved["sentences"]) if "sentences" in saved else []
        self.head.copy_(saved["head"])
        self.filled.copy_(saved["filled"])
        self.steps = int((~self.final).sum())


def _column(key: str, shape: tuple[int, ...], rows: tuple[int, int]) -> Tensor:
    """Room for what one sense gives; of the language, for the numbers of sentences."""
    kind = np.uint8 if naming.is_image(key) else np.int32 if key == LANGUAGE else np.float32
    return _room(key, rows if key == LANGUAGE else (*rows, *shape), kind)


def _room(what: str, sizes: tuple[int, ...], kind: type = np.float32) -> Tensor:
    """Zeros. Pages that are never written take no memory, which `torch.zeros` would write."""
    try:
        return torch.from_numpy(np.zeros(sizes, kind))
    except MemoryError as error:
        gigabytes = math.prod(sizes) * np.dtype(kind).itemsize / 1e9
        raise ValueError(f"replay of {what}: no room for {gigabytes:.0f} GB; fewer steps or smaller frames") from error


_ROWS = ("present", "action", "reward", "terminated", "final", "choice", "chose", "driven")
