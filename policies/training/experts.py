"""Expert control: an environment's own expert drives the first episodes, and the ends of some later ones."""

import numpy as np
import torch
from torch import Tensor

from policies.settings import EXPERT, LoopConfig


class Experts:
    """The next actions of the experts of E environments, and which experts are driving.

    An environment reports what its expert would do next as `expert_action` (A,) in its `info`, if a reset asked for it
    by the options `{"expert_action": True}`. The first `demonstrations` episodes are the expert's. In later ones it
    takes over with probability `expert_takeover_prob` at each step, and then keeps control until the episode ends
    (HG-DAgger: Kelly et al. 2019, arXiv 1810.02890). An expert whose action is NaN does not
    drive.
    """

    def __init__(self, count: int, size: int, config: LoopConfig):
        """Create the experts of `count` environments with actions of `size` numbers."""
        self._first, self._takeover = config.demonstrations, config.expert_takeover_prob
        self.action = torch.full((count, size), torch.nan)
        self.taken = np.zeros(count, dtype=bool)  # which experts have taken over
        self.steps = np.zeros(count, dtype=int)  # steps of the running episode that each has driven

    @property
    def known(self) -> np.ndarray:
        """Which experts (E,) know what to do next."""
        return self.action.isfinite().all(1).numpy()

    def demonstrating(self, episode: np.ndarray) -> np.ndarray:
        """Return which environments (E,) are in an all-expert episode; `episode` (E,): episode numbers, from 1."""
        count = len(episode)
        return (episode - 1) * count + np.arange(count) < self._first

    def driving(self, episode: np.ndarray) -> np.ndarray:
        """Return which experts (E,) drive now, given the episode numbers (E,)."""
        return (self.demonstrating(episode) | self.taken) & self.known

    def take_over(self, generator: torch.Generator) -> None:
        """Let each expert take over with its probability, before a step; draw nothing if that is 0."""
        if self._takeover:
            drawn = torch.rand(len(self.taken), generator=generator).numpy() < self._takeover
            self.taken |= drawn & self.known

    def asking(self, episode: np.ndarray, ended: np.ndarray) -> dict[str, bool]:
        """Return the options for resetting the environments (E,) that ended; `episode` (E,): new episode numbers."""
        if self._takeover or (self.demonstrating(episode) & ended).any():
            return {EXPERT: True}
        return {}

    def begin(self, ended: np.ndarray) -> None:
        """Begin new episodes in the environments (E,) that ended."""
        self.taken[ended], self.steps[ended] = False, 0

    def forget(self, ended: np.ndarray) -> None:
        """Forget the expert actions of the environments (E,) that ended."""
        self.action[torch.from_numpy(ended)] = torch.nan

    def hear(self, info: dict) -> None:
        """Store the experts' next actions from the `info` of E environments, where it reports them."""
        if EXPERT in info:
            here = torch.from_numpy(info[f"_{EXPERT}"])
            self.action[here] = torch.from_numpy(np.asarray(info[EXPERT], dtype=np.float32))[here]

    def instead(self, action: Tensor, episode: np.ndarray) -> tuple[Tensor, Tensor]:
        """Substitute the experts' actions where they drive; return the actions (E, A) and where that was done (E,)."""
        driving = self.driving(episode)
        self.steps += driving
        demonstrated = torch.from_numpy(driving)
        return torch.where(demonstrated[:, None], self.action, action), demonstrated

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the environments will not report again."""
        return {name: torch.from_numpy(getattr(self, name).copy()) for name in ("taken", "steps")}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.taken, self.steps = saved["taken"].numpy().copy(), saved["steps"].numpy().copy()
