"""Several agents as one: for what each has to decide alone, as within a deadline."""

import torch
from torch import Tensor

from policies.agent import Agent


class OneByOne:
    """Acts for N environments by an agent each, one after the other."""

    def __init__(self, agents: list[Agent]):
        self.agents = agents

    @property
    def decided(self) -> int:
        """Decisions of all."""
        return sum(agent.decided for agent in self.agents)

    @property
    def imagined(self) -> int:
        """Calls of the model's step by all."""
        return sum(agent.imagined for agent in self.agents)

    def reset(self, ended: Tensor) -> None:
        """Tell the agents of the environments (N,) whose episode ended."""
        for agent, end in zip(self.agents, ended.split(1), strict=True):
            agent.reset(end)

    def act(self, observation: dict[str, Tensor]) -> Tensor:
        """The next action (N, A)."""
        own = [{key: value[i : i + 1] for key, value in observation.items()} for i in range(len(self.agents))]
        return torch.cat([agent.act(seen) for agent, seen in zip(self.agents, own, strict=True)])
