"""Where an environment's own expert drives: the first episodes, and the end of others."""

import numpy as np
import torch
from torch import Tensor

from policies.settings import EXPERT, LoopConfig


class Experts:
    """What the experts of E environments would do next, and which of them drive.

    An environment tells by its `info`, `expert_action` (A,), what an expert would do from here; a reset's options ask
    for it, `{"expert_action": True}`. The first `demonstrations` episodes are the expert's. In later ones it takes over
    at each step with the probability `takeover` and keeps the episode to its end (HG-DAgger: Kelly et al. 2019, arXiv
    1810.02890). Where it does not know what to do, which is not a number, it does not drive.
    """

    def __init__(self, count: int, size: int, config: LoopConfig):
        """Experts of `count` environments with actions of `size` numbers."""
        self._first, self._takeover = config.demonstrations, config.takeover
        self.action = torch.full((count, size), torch.nan)
        self.taken = np.zeros(count, dtype=bool)  # who has taken over
        self.steps = np.zeros(count, dtype=int)  # how many of the running episode's steps each has driven

    @property
    def known(self) -> np.ndarray:
        """Which (E,) know what to do next."""
        return self.action.isfinite().all(1).numpy()

    def demonstrating(self, episode: np.ndarray) -> np.ndarray:
        """Which environments (E,) are in an episode, of their number (E,) from 1, that is an expert's as a whole."""
        count = len(episode)
        return (episode - 1) * count + np.arange(count) < self._first

    def driving(self, episode: np.ndarray) -> np.ndarray:
        """Which (E,) drive now, in episodes of these numbers (E,)."""
        return (self.demonstrating(episode) | self.taken) & self.known

    def take_over(self, generator: torch.Generator) -> None:
        """Perhaps take over, before a step. Draws only where experts may."""
        if self._takeover:
            drawn = torch.rand(len(self.taken), generator=generator).numpy() < self._takeover
            self.taken |= drawn & self.known

    def asking(self, episode: np.ndarray, ended: np.ndarray) -> dict[str, bool]:
        """The options for a reset of the environments (E,) that ended, their new episodes' numbers (E,) counted."""
        if self._takeover or (self.demonstrating(episode) & ended).any():
            return {EXPERT: True}
        return {}

    def begin(self, ended: np.ndarray) -> None:
        """New episodes begin in the environments (E,) that ended."""
        self.taken[ended], self.steps[ended] = False, 0

    def forget(self, ended: np.ndarray) -> None:
        """What was said in the episodes that ended."""
        self.action[torch.from_numpy(ended)] = torch.nan

    def hear(self, info: dict) -> None:
        """Take what experts would do next, where an `info` of E environments says it."""
        if EXPERT in info:
            here = torch.from_numpy(info[f"_{EXPERT}"])
            self.action[here] = torch.from_numpy(np.asarray(info[EXPERT], dtype=np.float32))[here]

    def instead(self, action: Tensor, episode: np.ndarray) -> tuple[Tensor, Tensor]:
        """The actions (E, A) to take, experts' where they drive; and where they do (E,)."""
        demonstrated = self.driving(episode)
        self.steps += demonstrated
        demonstrated = torch.from_numpy(demonstrated)
        return torch.where(demonstrated[:, None], self.action, action), demonstrated

    def state_dict(self) -> dict[str, Tensor]:
        """What the environments do not say again."""
        return {name: torch.from_numpy(getattr(self, name).copy()) for name in ("taken", "steps")}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        self.taken, self.steps = saved["taken"].numpy().copy(), saved["steps"].numpy().copy()
