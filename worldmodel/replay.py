"""Replay: raw control steps in preallocated arrays, usable the moment they are added; samples windows of tokens."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """H consecutive tokens of L control steps each, for B starts.

    state (H+1, B, S): at the token boundaries. action (H, B, L, A) and reward (H, B, L): per control step.
    terminated (H, B): the episode ended within this token or before it; all later steps are zero.
    valid (H, B): the token happened: all of its steps are known, or it ended by termination, and none before it ended.
    choice (B, P): the token that the planner chose for the first step, before any exploration; chose (B,): it did.
    """

    state: Float[Tensor, "H1 B S"]
    action: Float[Tensor, "H B L A"]
    reward: Float[Tensor, "H B L"]
    terminated: Bool[Tensor, "H B"]
    valid: Bool[Tensor, "H B"]
    choice: Float[Tensor, "B P"]
    chose: Bool[Tensor, "B"]


class Replay:
    """One ring of rows for each of E environments.

    A row is an observation and the step taken from it. The newest row has no step yet, and the last observation of an
    episode never gets one: such rows are marked `final`. A window stops at a final row: by `terminated`, the value
    beyond is zero; otherwise (time limit, ring's seam, the present) nothing is known of what follows, so the window's
    later tokens are invalid. Truncation is therefore never mistaken for termination.
    """

    def __init__(self, capacity: int, envs: int, state_size: int, action_size: int, token_size: int | None = None):
        """Keep the newest `capacity` steps in all; raises ValueError if that leaves an environment under 2 rows.

        `token_size` P is the action's size unless given.
        """
        self.rows = capacity // envs + 1
        if self.rows < 2:
            raise ValueError(f"replay.capacity={capacity}: at least 1 step for each of {envs} environments")
        self.state = torch.zeros(envs, self.rows, state_size)
        self.action = torch.zeros(envs, self.rows, action_size)
        self.reward = torch.zeros(envs, self.rows)
        self.choice = torch.zeros(envs, self.rows, token_size or action_size)
        self.chose = torch.zeros(envs, self.rows, dtype=torch.bool)
        self.terminated = torch.zeros(envs, self.rows, dtype=torch.bool)
        self.final = torch.ones(envs, self.rows, dtype=torch.bool)
        self.head = torch.full((envs,), -1)  # row of the newest observation
        self.filled = torch.zeros(envs, dtype=torch.long)
        self.steps = 0  # rows that hold a step

    def __len__(self) -> int:
        """Rows that hold an observation, over all environments."""
        return int(self.filled.sum())

    def start(self, env: int, state: Float[Tensor, "S"]) -> None:
        """Begin an episode with its first observation."""
        self._push(env, state)

    def add(
        self,
        env: int,
        action: Float[Tensor, "A"],
        reward: float,
        state: Float[Tensor, "S"],
        terminated: bool,
        choice: Float[Tensor, "P"] | None = None,
    ) -> None:
        """Add one step: the action taken from the newest observation, its reward, what was seen next.

        `choice`: the token that the planner chose at this step, if it did.
        """
        row = int(self.head[env])
        self.action[env, row] = action
        self.reward[env, row] = reward
        self.chose[env, row] = choice is not None
        if choice is not None:
            self.choice[env, row] = choice
        self.terminated[env, row] = terminated
        self.final[env, row] = False
        self.steps += 1
        self._push(env, state)

    def _push(self, env: int, state: Tensor) -> None:
        row = (int(self.head[env]) + 1) % self.rows
        self.state[env, row] = state
        self.steps -= not bool(self.final[env, row])  # the ring's oldest, if it comes round
        self.final[env, row] = True
        self.terminated[env, row] = False
        self.head[env] = row
        self.filled[env] = min(int(self.filled[env]) + 1, self.rows)

    def starts(self, count: int, generator: torch.Generator) -> tuple[Int[Tensor, "B"], Int[Tensor, "B"]]:
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

    def sample(self, batch: int, horizon: int, length: int, generator: torch.Generator) -> Window:
        """Windows of `horizon` tokens of `length` steps, from steps drawn uniformly."""
        env, row = self.starts(batch, generator)
        return self.window(env, row, horizon, length)

    def window(self, env: Int[Tensor, "B"], row: Int[Tensor, "B"], horizon: int, length: int) -> Window:
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
        shape = (horizon, length, len(row))
        return Window(
            state=self.state[env, (row + at) % self.rows],
            action=(self.action[env, rows[:-1]] * known.unsqueeze(-1)).view(*shape, -1).transpose(1, 2),
            reward=(self.reward[env, rows[:-1]] * known).view(shape).transpose(1, 2),
            terminated=terminated,
            valid=valid,
            choice=self.choice[env, row],
            chose=self.chose[env, row],
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Everything held, as tensors; rows never written are left out."""
        used = int(self.filled.max())
        rows = {name: getattr(self, name)[:, :used].contiguous() for name in _ROWS}
        return rows | {"head": self.head, "filled": self.filled, "rows": torch.tensor(self.rows)}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Take back what `state_dict` gave. Raises ValueError if the sizes differ."""
        wide = ("state", "action", "choice")
        sizes = len(saved["head"]), int(saved["rows"]), *(saved[name].shape[-1] for name in wide)
        own = len(self.head), self.rows, *(getattr(self, name).shape[-1] for name in wide)
        if sizes != own:
            raise ValueError(f"the saved replay has (environments, rows, {', '.join(wide)}) {sizes}, this one {own}")
        for name in _ROWS:
            getattr(self, name)[:, : saved[name].shape[1]] = saved[name]
        self.head.copy_(saved["head"])
        self.filled.copy_(saved["filled"])
        self.steps = int((~self.final).sum())


_ROWS = ("state", "action", "reward", "terminated", "final", "choice", "chose")
