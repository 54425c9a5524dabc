"""The work of a planner's process: one decision at a time for one robot."""

import math
import time
from dataclasses import fields, replace

import numpy as np
import torch

from policies.agent import Agent
from policies.decision import Spent
from policies.serving.messages import Answer, Begin, Question, Refusal, apart, camera_list
from policies.words import WORDS, Words
from worldmodel.mistakes import Mistake
from worldmodel.observation import Observation
from worldmodel.planner import PlanFault
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY, is_image, stacked


class Decider:
    """Answers a robot's questions with the decisions of an agent, with or without a planner, for the task `label`.

    Its actions are for `control_hz` control steps per second, and are interpreted as `control` says
    (`sim.so101.targets`).
    """

    def __init__(self, agent: Agent, label: str, control: str, control_hz: float):
        self.agent, self.label, self._control, self._control_hz = agent, label, control, control_hz
        self._deadline_ms = 0.0
        remembered = len(agent.model.config.vision.lags)
        frames = {key: (remembered, *shape) for key, shape in agent.model.senses.items() if is_image(key)}
        self._frames = frames  # shape of each camera's frame stack, (F, H, W, 3)
        self._sentence = torch.zeros(1, Words.size)

    def unfit(self, begin: Begin) -> str:
        """Return why this planner does not suit that robot, or "". Another robot may be answered at the same time."""
        if differing := self._differing(begin):
            return f"this planner is for another checkpoint than the robot's: {differing}"
        if LANGUAGE_KEY in self.agent.model.senses:
            try:
                WORDS.encode([begin.sentence])
            except ValueError as error:
                return str(error)
        return ""

    def begin(self, begin: Begin) -> None:
        """Start serving that robot, for which `unfit` returned ""; forget everything before."""
        if LANGUAGE_KEY in self.agent.model.senses:
            self._sentence = WORDS.encode([begin.sentence])
        self.agent.forget()
        self._deadline_ms = begin.deadline_ms

    def warm(self) -> None:
        """Make two decisions on blank input, since the first ones of a process are slow; they are not counted."""
        for _ in range(2):
            sizes = self._needed()
            state, frames = np.zeros(sizes["state"], np.float32), np.zeros(sizes["frames"], np.uint8)
            self.answer(Question(0, True, state, frames, np.ones(sizes["there"], np.uint8)))
        self.agent.spent = Spent()
        self.agent.forget()

    def answer(self, question: Question) -> Answer | Refusal:
        """Decide. Return a Refusal if an array has the wrong shape, or if no plan has a finite return."""
        for name, shape in self._needed().items():
            if (given := getattr(question, name).shape) != shape:
                return Refusal(f"{name} of shape {given}; {shape} is needed")
        began = time.perf_counter()
        if question.fresh:
            self.agent.forget()
        deadline = began + self._deadline_ms / 1000 if self._deadline_ms else None
        try:
            decision = self.agent.decide(self._observation(question), deadline=deadline)
        except (Mistake, PlanFault) as fault:
            return Refusal(str(fault))
        points, length = decision.sentence(0).numpy(), self.agent.curve.length
        actions = decision.actions[0, : int(decision.until[0])].numpy().copy()
        return Answer(question.number, 1000 * (time.perf_counter() - began), length, actions, points)

    def _needed(self) -> dict[str, tuple[int]]:
        """Return the required shapes of a question's arrays."""
        pixels = sum(map(math.prod, self._frames.values()))
        return {"state": (self.agent.model.state_size,), "frames": (pixels,), "there": (len(self._frames),)}

    def _differing(self, begin: Begin) -> str:
        """Describe how the robot's settings differ from this planner's, except for those a robot may choose; or ""."""
        agent, curve = self.agent, self.agent.curve
        ours = replace(
            begin,
            task=self.label,
            state_size=agent.model.state_size,
            action_size=curve.action_size,
            control=self._control,
            control_hz=self._control_hz,
            every=agent.most,
            length=curve.length,
            knots=curve.knots,
            degree=curve.degree,
            cameras=camera_list(agent.model.senses),
            lags=",".join(map(str, agent.model.config.vision.lags)) if self._frames else "",
        )
        pairs = ((field.name, getattr(ours, field.name), getattr(begin, field.name)) for field in fields(begin))
        return "; ".join(f"{name} is {a or 'none'}, the robot's {b or 'none'}" for name, a, b in pairs if a != b)

    def _observation(self, question: Question) -> Observation:
        """Return what the robot observes, its frames stacked. Raises ValueError if a number is not finite."""
        seen, present = {}, {}
        if self.agent.model.state_size:
            seen[STATE_KEY] = torch.from_numpy(question.state)[None]
        shown = apart(question.frames, list(self._frames.values()))
        for key, frames, there in zip(self._frames, shown, question.there, strict=True):
            seen[key], present[key] = torch.from_numpy(frames)[None], torch.tensor([bool(there)])
        if LANGUAGE_KEY in self.agent.model.senses:
            seen[LANGUAGE_KEY] = self._sentence
        model = self.agent.model
        return Observation.of(stacked(model.senses, len(model.config.vision.lags)), seen, present)
