"""Laws of a planner's service: what it decides from, what it refuses, who reaches its socket, how its process ends."""

import contextlib
import json
import os
import signal
import socket
import stat
import threading
import time
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import torch

from configs.arm import planning
from configs.runs.loading import task_of
from policies.agent import Agent
from policies.alarms import GAUGES, Alarms, Band
from policies.ladder import Ladder
from policies.planner_link.client import PlannerClient, reach
from policies.planner_link.messages import HEAD, Begin, Question, Refusal, Refused, decode, encode
from policies.planner_link.service import PlannerService, listening
from policies.storage.checkpoint import read_spec
from policies.text_encoder import WORDS, Words
from policies.tokens.curves import Curve
from robot.settings import RunConfig
from worldmodel.errors import UserError
from worldmodel.planner import Planner
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY
from worldmodel.settings import PlannerConfig

BEGIN = Begin("reach", 3, 2, "delta", 30.0, 2, 2, 2, 1)
WAIT_S = 60.0  # a loaded machine
HANGS_UP = signal.SIGTERM if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else signal.SIGHUP  # it is under nohup


class Watched(Agent):
    """An agent that notes its calls, and takes 20 ms more."""

    def forget(self):
        self.calls = ["forget"]
        super().forget()

    def decide(self, observation, deadline=None):
        self.calls += [observation, deadline and deadline - time.perf_counter()]
        time.sleep(0.02)
        return super().decide(observation, deadline=deadline)


def watched(toys, shapes: dict, length: int) -> Watched:
    """An agent with a planner, of these senses and actions (2,)."""
    token = toys.token_settings(length)
    curve = Curve.of_token(token, 2)
    model = toys.tiny_model(shapes, curve.size, token=token)
    planner = Planner(model, 0.9, PlannerConfig(samples=8, policy_samples=4, elites=4))
    return Watched(model, curve, planner, torch.Generator())


@pytest.mark.parametrize("deadline_ms", [0.0, 5000.0])
def test_a_service_decides_for_the_robot_that_began_from_what_it_sends(toys, deadline_ms):
    """With the frames that are there, its sentence, and until its deadline; of whoever was before, nothing is left."""
    a, b = "observation.images.a", "observation.images.b"
    shapes = {STATE_KEY: (3,), a: (32, 32, 3), b: (32, 48, 3), LANGUAGE_KEY: (Words.size,)}
    agent = watched(toys, shapes, 2)
    service = PlannerService(agent, BEGIN)
    assert agent.totals.decisions == 0  # those of a beginning do not count
    service.begin(replace(BEGIN, sentence="go on", deadline_ms=deadline_ms))
    assert agent.calls == ["forget"]
    frames = tuple(frame + np.uint8(7) for frame in service.blank().frames)
    question = Question(3, False, np.zeros(3, np.float32), frames, np.array([True, False]))
    answer = service.answer(question)
    _, observation, left = agent.calls
    assert left is None if not deadline_ms else 4.5 < left <= 5
    assert answer.number == 3 and 20 <= answer.plan_ms < 1000 * WAIT_S
    assert torch.equal(observation.values[LANGUAGE_KEY], WORDS.encode(["go on"]))
    assert (observation.values[a] == 7).all() and observation.present[a].item() and not observation.present[b].item()
    service.answer(replace(question, fresh=True))
    assert agent.calls[0] == "forget" and len(agent.calls) == 3
    for wrong in ({"frames": frames[:1]}, {"present": np.ones(1, bool)}, {"state": np.zeros(4, np.float32)}):
        assert isinstance(service.answer(replace(question, **wrong)), Refusal)


def test_a_robot_is_told_the_rungs_of_the_ladder_and_each_of_its_episodes_begins_anew(toys):
    agent, told = watched(toys, {STATE_KEY: (3,)}, 4), []
    band = Band((9.0,) * 30, (1.0,) * 30, 1.0)
    ladder = Ladder(Alarms({name: band for name in GAUGES}, "", "", "", 0.05, 80, 80), -1.0, first=lambda episode: 3)
    service = PlannerService(agent, BEGIN, watch=ladder)
    service.begin(BEGIN)
    for episode in (0, 1):
        for number in range(6):
            question = Question(number, number in (0, 4), torch.randn(3).numpy(), episode=episode)
            told.append(service.answer(question))
    assert [answer.rung for answer in told] == 2 * ["", "", "", "back off", "", ""]
    assert [len(answer.gauges) for answer in told] == 2 * [
        0,
        2,
        2,
        2,
        0,
        2,
    ]  # unknown at first, and after it backed off
    assert told[3].why == "back off: the world does not answer as imagined" and told[2].why == told[5].why == ""


def test_what_leaves_no_plan_is_refused_in_a_line(toys):
    agent = watched(toys, {STATE_KEY: (3,)}, 4)
    service = PlannerService(agent, BEGIN)
    answer = service.answer(Question(2, True, np.zeros(3, np.float32)))
    assert answer.actions.shape == (4, 2) and (answer.number, answer.length) == (2, 4)
    not_finite = service.answer(Question(1, True, np.full(3, np.nan, np.float32)))
    assert not_finite.reason == "observation.state[0] is nan: finite numbers only"
    with torch.no_grad():
        agent.model.outcome.bias.fill_(torch.nan)  # a model that has diverged
    no_plan = service.answer(Question(3, False, np.zeros(3, np.float32)))
    assert "finite" in no_plan.reason
    for refusal in (not_finite, no_plan):
        assert not refusal.final and decode(encode(refusal)[HEAD.size :]) == refusal


def test_only_its_owner_reaches_a_socket_and_only_one_planner_has_it(tmp_path):
    path = tmp_path / "in" / "folder" / "planner.sock"
    for _ in range(2):
        with listening(str(path)):
            modes = [stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path)]
            assert modes == [0o700, 0o600]
            with pytest.raises(UserError, match="another planner listens there"), listening(str(path)):
                pass
        assert not path.exists()
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(path))  # what a planner that was killed leaves
    path.parent.chmod(0o750)
    with pytest.raises(UserError, match=f"chmod 700 {path.parent}"), listening(str(path)):
        pass
    path.unlink()
    path.parent.chmod(0o700)
    path.write_text("precious")
    with pytest.raises(OSError), listening(str(path)):
        pass
    assert path.read_text() == "precious"


def test_a_planners_process_that_cannot_start_says_why_to_its_robot(monkeypatch, tmp_path):
    ours, theirs = socket.socketpair()
    words = [str(theirs.detach()), json.dumps(asdict(RunConfig(checkpoint=str(tmp_path / "gone")))), ""]
    monkeypatch.setattr("sys.argv", ["planning", *words])
    process = threading.Thread(target=planning.main)
    process.start()
    client = PlannerClient(lambda: ours, BEGIN, print, patience_s=None, reconnect=False)
    with contextlib.closing(client), pytest.raises(Refused, match=r"^[^\n]*gone: no such folder$"):
        client.connect()
    process.join(WAIT_S)


def test_the_command_plans_for_a_robot_and_ends_with_what_it_did(command, arm_checkpoint, tmp_path):
    path, answers = str(tmp_path / "own" / "s"), []
    begin = planning.begin_of(spec := read_spec(arm_checkpoint), task_of(spec), 2)

    def robots():
        try:
            while not os.path.exists(path):
                time.sleep(0.01)
            for task in ("another", begin.task):
                client = PlannerClient(partial(reach, path), replace(begin, task=task), print, patience_s=WAIT_S)
                with contextlib.closing(client), contextlib.suppress(Refused):
                    client.connect()
                    client.ask(np.zeros(37), True)
                    while (answer := client.poll()) is None:
                        time.sleep(0.01)
                    answers.append(answer)
        finally:
            os.kill(os.getpid(), HANGS_UP)

    thread = threading.Thread(target=robots)
    thread.start()
    code, out, err = command("serve", f"checkpoint={arm_checkpoint}", f"address={path}")
    thread.join(WAIT_S)
    assert code == 0 and f"planning for so101-touch at {path}\n" in err
    assert f"task is {begin.task}, the robot's another" in err
    assert len(answers) == 1 and answers[0].actions.shape == (begin.every, 6) and np.abs(answers[0].actions).max() <= 1
    assert json.loads(out.splitlines()[-1]) == {"decisions": 1, "refused": 1}
    assert not os.path.exists(path)
