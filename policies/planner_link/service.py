"""The planner's side: of the robots it suits, the last to connect has the planner; all others are told why not."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from policies.agent import Agent
from policies.alarms import Notice, Watch
from policies.decisions.decision import Totals
from policies.planner_link import messages
from policies.planner_link.messages import Answer, Begin, Question, Refusal, Refused, WrongMessage
from policies.text_encoder import WORDS, Words
from worldmodel.errors import UserError
from worldmodel.model import WorldModel
from worldmodel.mppi import PlanFault
from worldmodel.observation import Observation
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY, is_image, stacked

HANDSHAKE_S = 5.0  # maximum time from the start of a connection to its Begin
MOST = 16  # maximum number of connections at a time
REPLACED = "another robot took over"


class PlannerService:
    """Answers a robot's questions with an agent's decisions, one robot, as `settings` describe it, at a time."""

    def __init__(
        self, agent: Agent, settings: Begin, say: Callable[[str], None] = lambda line: None, watch: Watch | None = None
    ):
        """Make two decisions on blank input, since the first ones of a process are slow; they are not counted."""
        self.agent, self.settings, self._say, self._watch, self._episode = agent, settings, say, watch, -1
        remembered = len(agent.model.config.vision.frame_lags)
        self._frames = {key: (remembered, *shape) for key, shape in agent.model.senses.items() if is_image(key)}
        self._sentence, self._deadline_ms = torch.zeros(1, Words.size), 0.0
        self._lock, self._session = threading.Lock(), threading.Lock()  # of the next two; of the agent
        self._socket: socket.socket | None = None  # of the last robot, and its id
        self._robot = ""
        self._listener: socket.socket | None = None
        self._closed, self.refused = False, 0
        for _ in range(2):
            self.answer(self.blank())
        agent.totals = Totals()

    def blank(self) -> Question:
        """Return a question of the right shapes."""
        frames = tuple(np.zeros(shape, np.uint8) for shape in self._frames.values())
        return Question(0, True, np.zeros(self.agent.model.state_size, np.float32), frames, np.ones(len(frames), bool))

    def begin(self, begin: Begin) -> None:
        """Forget everything before, and decide for that robot. Raises Refused if this planner does not suit it."""
        sentence = self._sentence_of(begin)
        self.agent.forget()
        self._sentence, self._deadline_ms, self._episode = sentence, begin.deadline_ms, -1

    def answer(self, question: Question) -> Answer | Refusal:
        """Decide. Return a Refusal if an array has the wrong shape, or if no plan has a finite return."""
        began = time.perf_counter()
        if question.fresh:
            self.agent.forget()
        self.agent.vias.clock = torch.tensor([question.frame])
        deadline = began + self._deadline_ms / 1000 if self._deadline_ms else None
        if self.agent.trace is not None:
            self.agent.trace.place = lambda: ([question.episode], [question.frame])
        watch, notice = self._watch, Notice()
        try:
            if watch is not None:
                watch.ready(self.agent, question.episode != self._episode, question.fresh, question.reply)
                self._episode = question.episode
            decision = self.agent.decide(observed(self.agent.model, question, self._sentence), deadline=deadline)
            if watch is not None:
                notice = watch.decided(self.agent)
        except (UserError, PlanFault) as fault:
            return Refusal.of(fault)
        tokens, length = decision.plan(0).numpy(), self.agent.curve.length
        actions = decision.actions[0, : int(decision.until[0])].numpy().copy()
        plan_ms = 1000 * (time.perf_counter() - began)
        choices = json.dumps(notice.choices, ensure_ascii=False) if notice.choices else ""
        noticed = notice.rung, messages.one_line(notice.why), choices, notice.gauges
        return Answer(question.number, plan_ms, length, actions, tokens, *noticed)

    def serve(self, listener: socket.socket) -> None:
        """Answer the robots that connect, until `close` is called. Raises OSError if the listener fails."""
        self._listener, peers = listener, list[tuple[threading.Thread, socket.socket]]()
        try:
            while not self._closed:
                sock, _ = listener.accept()
                peers = [each for each in peers if each[0].is_alive()]
                if len(peers) < MOST:
                    peers.append((threading.Thread(target=self.converse, args=(sock,), daemon=True), sock))
                    peers[-1][0].start()
                else:
                    sock.close()
                    self.refused += 1
                    self._say(f"refused: {MOST} others are connected")
        except OSError:
            if not self._closed:
                raise
        finally:
            for thread, sock in peers:  # PyTorch aborts a process that ends while a thread plans
                messages.hang_up(sock)
                thread.join(HANDSHAKE_S)

    def converse(self, sock: socket.socket) -> None:
        """Answer one robot until it hangs up, or tell it why not. Closes the socket."""
        what = "refused"
        with sock:
            try:
                begin = messages.receive(sock, time.monotonic() + HANDSHAKE_S)
                if not isinstance(begin, Begin):
                    raise WrongMessage(f"{type(begin).__name__}: Begin comes first")
                self._sentence_of(begin)
                self._take_over(sock, begin)
                what = "gone"
                self._say("a robot")
                with self._session:
                    if self._socket is not sock:
                        raise Refused(REPLACED, final=True)
                    self.begin(begin)
                    messages.send(sock, messages.Ready())
                    while True:
                        question = messages.receive(sock)
                        if not isinstance(question, Question):
                            raise WrongMessage(f"{type(question).__name__}: only Questions follow Begin")
                        messages.send(sock, self.answer(question))
            except (OSError, UserError) as error:
                if isinstance(error, UserError):
                    with suppress(OSError):  # the robot may be gone
                        messages.send(sock, Refusal.of(error))
                replaced = what == "gone" and self._socket is not sock
                self.refused += what == "refused"
                self._say(f"{what}: {REPLACED if replaced else error or type(error).__name__}")

    def close(self) -> None:
        """Let `serve` hang up on all robots and end. Further calls have no effect."""
        self._closed = True
        messages.hang_up(self._listener)

    def _take_over(self, sock: socket.socket, begin: Begin) -> None:
        """Hang up on the previous robot. Raises Refused if it is this one that was replaced, and now comes back."""
        with self._lock:
            if begin.resumes and self._robot not in ("", begin.robot):
                raise Refused(REPLACED, final=True)
            previous, self._socket, self._robot = self._socket, sock, begin.robot
        messages.hang_up(previous)

    def _sentence_of(self, begin: Begin) -> Tensor:
        """Return the vector of a robot's sentence, zeros without language. Raises Refused if the robot is unfit."""
        if why := messages.incompatible(self.settings, begin):
            raise Refused(why)
        if LANGUAGE_KEY not in self.agent.model.senses:
            return torch.zeros(1, Words.size)
        try:
            return WORDS.encode([begin.sentence])
        except ValueError as error:
            raise Refused(str(error)) from error


def observed(model: WorldModel, question: Question, sentence: Tensor) -> Observation:
    """Return what a robot observes, its frames stacked, and a sentence (1, T), if the model takes one.

    Raises UserError for a wrong shape or a NaN.
    """
    senses, values, present = stacked(model.senses, len(model.config.vision.frame_lags)), {}, {}
    cameras = {key: shape for key, shape in senses.items() if is_image(key)}
    if not len(question.frames) == len(question.present) == len(cameras):
        needed = ", ".join(map(str, cameras.values())) or "none"
        raise UserError(f"frames of {len(question.frames)} cameras; needed: {needed}")
    if model.state_size:
        values[STATE_KEY] = torch.from_numpy(question.state)[None]
    for key, frames, there in zip(cameras, question.frames, question.present, strict=True):
        values[key], present[key] = torch.from_numpy(frames)[None], torch.tensor([bool(there)])
    if LANGUAGE_KEY in model.senses:
        values[LANGUAGE_KEY] = sentence
    return Observation.of(senses, values, present)


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """Listen at a Unix socket that only this user can reach. Raises UserError if others can or it is taken; OSError."""
    path = Path(address)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.stat().st_mode & 0o077:
        raise UserError(f"address={path}: others may enter its folder; chmod 700 {path.parent}")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise UserError(f"address={path}: another planner listens there")
        if path.is_socket():
            path.unlink()  # of one that was killed
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(MOST)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)
