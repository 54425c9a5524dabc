"""The agent as an MCP server: a client runs its task by `semagram-run`, stops it through the gate, sees its plan.

The client chooses how many episodes; whoever starts the server says on which robot, and how (`mcp=`).
"""

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from policies.planner_link.service import PlannerService
from robot.safety.stops import handled
from worldmodel.errors import UserError

STOPPING_S = 20.0  # for how long a client that stops a run waits for its end


class Offered:
    """What a client may do with a planner service that listens at `remote`. `words`: arguments of semagram-run."""

    def __init__(self, service: PlannerService, checkpoint: str, remote: str, words: str):
        """Offer it; nothing runs yet."""
        own = [f"checkpoint={checkpoint}", f"remote={remote}", *shlex.split(words)]
        self._service, self._command = service, [sys.executable, "-P", "-m", "configs.commands", "run", *own]
        self._process: subprocess.Popen | None = None
        self._said: IO[bytes] = io.BytesIO()  # by the run
        self._last: dict = {"running": False}

    def run(self, episodes: int = 1) -> dict:
        """Begin to do the task for so many episodes on the robot; state() tells when it is done."""
        if not self.state()["running"]:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115  # read once it has ended
            command, null = [*self._command, f"episodes={episodes}"], subprocess.DEVNULL
            self._process = subprocess.Popen(command, stdin=null, stdout=self._said, process_group=0)
        return self.state()

    def state(self) -> dict:
        """Tell whether a run goes on; once it has ended, its exit code and result."""
        if self._process is None or (code := self._process.poll()) is None:
            return {"running": True} if self._process else self._last
        with self._said:
            self._said.seek(0)
            lines = self._said.read().decode().splitlines()
        result = json.loads(lines[-1]) if lines else None
        self._process, self._last = None, {"running": False, "exit_code": code, "result": result}
        return self._last

    def plan(self) -> dict:
        """Tell the newest plan: control points in [-1, 1] of each token, and the control steps that a token lasts."""
        agent = self._service.agent
        tokens = agent.decision.plan(0).tolist() if agent.totals.decisions and agent.decision else []
        return {"decisions": agent.totals.decisions, "steps": agent.curve.length, "tokens": tokens}

    def stop(self) -> dict:
        """Stop the run as Ctrl-C does, and tell its result; that it is still running if that takes long."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOPPING_S)
        return self.state()


def offer(service: PlannerService, listen: Callable[[], Any], checkpoint: str, remote: str, words: str) -> None:
    """Speak MCP until standard input ends, while robots are answered by `listen`. Raises UserError without the SDK."""
    try:
        from mcp.server.mcpserver import MCPServer
    except ImportError as error:
        raise UserError(f"mcp={words}: {error}; uv pip install 'mcp>=2.3,<3'") from error
    offered, server = Offered(service, checkpoint, remote, words), MCPServer("semagram")
    listener = threading.Thread(target=listen, name="planner", daemon=True)
    for tool in (offered.run, offered.state, offered.plan, offered.stop):
        server.tool()(tool)
    listener.start()

    def end(number: int, _frame: object) -> None:
        offered.stop()
        os._exit(128 + number)  # nothing wakes the reader of standard input

    try:
        with handled(end):
            server.run("stdio")
    finally:
        sys.stdout = sys.stderr  # for the command's own result: whoever reads stdout expects MCP
        offered.stop()
        service.close()
        listener.join()
