"""One decision at a time from one robot's states: what a planner's process does."""

import time
from dataclasses import replace

import numpy as np
import torch

from policies.agent import Agent
from policies.serving.messages import Answer, Ask, Begin, Ready, Refusal
from worldmodel.senses import STATE


class Decider:
    """Answers a robot with the decisions of an agent, which has a planner, for the task called `label`."""

    def __init__(self, agent: Agent, label: str):
        self.agent, self.label = agent, label

    def begin(self, begin: Begin) -> Ready | Refusal:
        """Forget what was; whether this planner is for that robot."""
        model, tokens = self.agent.model, self.agent.tokens
        ours = (self.label, model.state_size, tokens.action_size)
        theirs = (begin.task, begin.state_size, begin.action_size)
        if ours != theirs:
            return Refusal(f"this planner is for {_words(*ours)}, the robot asks about {_words(*theirs)}")
        self._forget()
        if begin.deadline_ms:
            planner = self.agent.planner
            planner.config = replace(planner.config, deadline_ms=begin.deadline_ms)
        curve = tokens.curves[-1]
        return Ready(self.agent.most, curve.length, curve.knots, curve.degree)

    def warm(self) -> None:
        """Decide twice about nothing, since the first decisions of a process are slow."""
        for _ in range(2):
            self.answer(Ask(0, True, np.zeros(self.agent.model.state_size, np.float32)))
        self._forget()

    def answer(self, ask: Ask) -> Answer | Refusal:
        """Decide. A state of the wrong size is refused."""
        size = self.agent.model.state_size
        if ask.state.shape != (size,):
            return Refusal(f"a state of shape {ask.state.shape}; ({size},) is needed")
        began = time.perf_counter()
        agent = self.agent
        if ask.fresh:
            self._forget()
        agent.at = agent.until.clone()  # the next decision is due now
        agent.act({STATE: torch.from_numpy(ask.state)[None]})
        points = agent.plan.tokens[:, 0, : agent.tokens.points].cpu().numpy()
        actions = agent.actions[0, : int(agent.until[0])].numpy().copy()
        return Answer(ask.number, 1000 * (time.perf_counter() - began), actions, points)

    def _forget(self) -> None:
        self.agent.actions = self.agent.memory = None


def _words(task: str, state_size: int, action_size: int) -> str:
    return f"{task} ({state_size} numbers of state, {action_size} of action)"
