"""semagram-serve as a process: it plans for a robot elsewhere until it is told to stop."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time

import numpy as np

from configs.arm.running import begin_of
from configs.runs.loading import task_of
from policies.serving.link import Link
from policies.serving.sealing import read_secret
from policies.storage.checkpoint import read_spec

WAIT_S = 120.0
HANGS_UP = signal.SIGTERM if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else signal.SIGHUP  # it is under nohup


def test_it_plans_for_a_robot_at_the_other_end_and_ends_with_what_it_did(arm_checkpoint, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a secret of a decent length\n")
    secret.chmod(0o600)
    keys = [f"checkpoint={arm_checkpoint}", f"secret={secret}", "port=0"]
    command = [sys.executable, "-m", "configs.serve", *keys]
    identity = read_spec(arm_checkpoint)
    begin = begin_of(identity, task_of(identity), 2)
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        )
        stack.callback(process.kill)
        line = next(said for said in process.stderr if said.startswith("planning for so101-touch on "))
        address = ("127.0.0.1", int(line.rpartition(":")[2]))
        for word, answers in ((b"not the secret at all", False), (read_secret(secret), True)):
            link = Link(lambda: socket.create_connection(address), word, begin, print)
            if not answers:
                with contextlib.suppress(ConnectionError):
                    link.connect()
                    raise AssertionError("another secret was taken")
                continue
            link.connect()
            number, found, end = link.ask(np.zeros(37, np.float32), True), [], time.monotonic() + WAIT_S
            while not found:
                found = link.poll()
                assert time.monotonic() < end
            assert (found[0].number, found[0].actions.shape) == (number, (begin.every, 6))
            assert np.abs(found[0].actions).max() <= 1
            link.close()
        process.send_signal(HANGS_UP)
        out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1]) == {"decisions": 1, "refused": 1}
    assert "not authentic: another secret" in err
