"""One decision at a time from what one robot perceives: what a planner's process does."""

import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from policies.agent import Agent
from policies.serving.messages import Answer, Ask, Begin, Ready, Refusal
from policies.words import WORDS, Words
from worldmodel.senses import IMAGES, LANGUAGE, STATE, is_image, mask


class Decider:
    """Answers a robot with the decisions of an agent, with a planner or without, for the task called `label`."""

    def __init__(self, agent: Agent, label: str):
        self.agent, self.label = agent, label
        senses = agent.model.senses
        self._cameras = [key for key in senses if is_image(key)]
        height, width = senses[self._cameras[0]][:2] if self._cameras else (1, 1)
        remembered = len(agent.model.config.vision.lags) if self._cameras else 1
        self._frames = (len(self._cameras), remembered, height, width, 3)
        self._sentence = torch.zeros(1, Words.size)

    def begin(self, begin: Begin) -> Ready | Refusal:
        """Forget what was; whether this planner is for that robot."""
        model, tokens = self.agent.model, self.agent.tokens
        cameras = ",".join(key.removeprefix(IMAGES) for key in self._cameras)
        size = self._frames[2] if self._cameras else 0
        ours = (self.label, model.state_size, tokens.action_size, cameras, size)
        theirs = (begin.task, begin.state_size, begin.action_size, begin.cameras, begin.image_size)
        if ours != theirs:
            return Refusal(f"this planner is for {_words(*ours)}, the robot asks about {_words(*theirs)}")
        if LANGUAGE in model.senses:
            try:
                self._sentence = WORDS.encode([begin.sentence])
            except ValueError as error:
                return Refusal(str(error))
        self._forget()
        if begin.deadline_ms and self.agent.planner is not None:
            planner = self.agent.planner
            planner.config = replace(planner.config, deadline_ms=begin.deadline_ms)
        curve = tokens.curves[-1]
        return Ready(self.agent.most, curve.length, curve.knots, curve.degree)

    def warm(self) -> None:
        """Decide twice about nothing, since the first decisions of a process are slow."""
        for _ in range(2):
            frames, there = np.zeros(self._frames, np.uint8), np.ones(len(self._cameras), np.uint8)
            self.answer(Ask(0, True, np.zeros(self.agent.model.state_size, np.float32), frames, there))
        self._forget()

    def answer(self, ask: Ask) -> Answer | Refusal:
        """Decide. What is of the wrong size is refused."""
        needed = {"state": (self.agent.model.state_size,), "frames": self._frames, "there": self._frames[:1]}
        for name, shape in needed.items():
            if (given := getattr(ask, name).shape) != shape:
                return Refusal(f"{name} of shape {given}; {shape} is needed")
        began = time.perf_counter()
        agent = self.agent
        if ask.fresh:
            self._forget()
        agent.at = agent.until.clone()  # the next decision is due now
        agent.follow(self._observation(ask))
        points = agent.sentences[:, 0, : agent.tokens.points].numpy()
        actions = agent.actions[0, : int(agent.until[0])].numpy().copy()
        return Answer(ask.number, 1000 * (time.perf_counter() - began), actions, points)

    def _observation(self, ask: Ask) -> dict[str, Tensor]:
        seen = {}
        if self.agent.model.state_size:
            seen[STATE] = torch.from_numpy(ask.state)[None]
        for key, frames, there in zip(self._cameras, ask.frames, ask.there, strict=True):
            seen[key], seen[mask(key)] = torch.from_numpy(frames)[None], torch.tensor([[bool(there)]])
        if LANGUAGE in self.agent.model.senses:
            seen[LANGUAGE] = self._sentence
        return seen

    def _forget(self) -> None:
        self.agent.actions = self.agent.memory = None


def _words(task: str, state_size: int, action_size: int, cameras: str, size: int) -> str:
    seen = f", frames of {cameras.replace(',', ', ')} at {size} pixels" if cameras else ""
    return f"{task} ({state_size} numbers of state, {action_size} of action{seen})"
