"""Laws of a user's own tools: typed, told as JSON Schema, used by the ladder where all else failed."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest

from configs.arm.mcp_server import Offered, offer
from configs.command import composed
from configs.runs.evaluation import Evaluation
from configs.schema import EvaluateConfig
from policies.cases import FILE, MOST, Uses
from policies.storage.folders import FolderError
from policies.tools import Tool
from worldmodel import registry
from worldmodel.errors import UserError
from worldmodel.strict import build


def knock(times: int = 2, hard: float = 0.5, where: Literal["drawer", "door"] = "drawer", twice: bool = False) -> str:
    """Knock against it.

    More about it.
    """
    if times > 9:
        raise OSError("broke")
    return f"knocked {times} times\nat the {where}"


def test_a_tool_tells_its_parameters_and_takes_no_others():
    registry.register("tool", "knock")(knock)
    tool = Tool.of("knock")
    assert tool.about == "Knock against it."
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "times": {"type": "integer", "default": 2},
            "hard": {"type": "number", "default": 0.5},
            "where": {"type": "string", "enum": ["drawer", "door"], "default": "drawer"},
            "twice": {"type": "boolean", "default": False},
        },
        "required": [],
        "additionalProperties": False,
    }
    assert tool({}) == "knocked 2 times at the drawer" and tool({"times": 3, "hard": 1, "where": "door"})
    for wrong, line in (
        ({"time": 3}, r"knock\.time: one of times, hard, where, twice"),
        ({"times": 2.5}, r"knock\.times=2\.5: integer"),
        ({"times": True}, r"knock\.times=True: integer"),
        ({"where": "wall"}, r"knock\.where='wall': one of \['drawer', 'door'\]"),
        ({"times": 10}, r"tools=\[knock\]: OSError: broke"),
    ):
        with pytest.raises(UserError, match=f"^{line}$"):
            tool(wrong)


@pytest.mark.parametrize(
    ("kind", "wrong", "line"),
    [
        ("configs.schema:EvaluateConfig", "tools=('knok',), ladder=True", "tools=knok: "),
        ("robot.settings:RunConfig", "tools=('knok',), ladder=True, checkpoint='.'", "tools=knok: "),
        ("configs.schema:BenchConfig", "faults=('jam@-6',)", "faults=[jam@-6]: one of jam, flip"),
    ],
)
def test_a_misspelt_tool_or_fault_is_refused_before_pytorch_is_imported(kind, wrong, line):
    module, _, name = kind.partition(":")
    code = f"import sys; from {module} import {name}\ntry: {name}({wrong})\n"
    code += "except Exception as e: print(e, 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith(line) and said.endswith(" False\n")


SERVER = """
from mcp.server.mcpserver import MCPServer

server = MCPServer("drawer")


@server.tool()
def pull(hard: bool = False) -> str:
    "Pull at the drawer."
    return f"pulled, hard: {hard}"


@server.tool()
def paint(colour: str) -> str:
    return colour


@server.tool()
def knock() -> str:
    raise ValueError("nobody is in")


server.run("stdio")
"""


def test_the_tools_of_an_mcp_server_that_need_no_argument_are_offered(tmp_path):
    mcp = pytest.importorskip("mcp", reason="the extra mcp is not installed")
    program = f"env PYTHONPATH={Path(mcp.__file__).parents[1]} {sys.executable}"  # a server gets no PYTHONPATH else
    (tmp_path / "drawer.py").write_text(SERVER)
    pull, knock = Tool.each([f"mcp:{program} {tmp_path / 'drawer.py'}"])
    assert (pull.name, pull.about, knock.name) == ("pull", "Pull at the drawer.", "knock")
    assert pull({}) == "pulled, hard: False" and pull({"hard": True}) == "pulled, hard: True"
    with pytest.raises(UserError, match=r"pull\.hard=3: boolean"):
        pull({"hard": 3})
    with pytest.raises(UserError, match=r"tools=\[knock\]: RuntimeError: .*knock"):
        knock({})
    with pytest.raises(UserError, match=r"^tools=\[mcp:/no/such server\]: .*No such file"):
        Tool.each(["mcp:/no/such server"])


def test_without_the_extra_its_installation_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(UserError, match=r"^tools=\[mcp:x\]: .*uv pip install 'mcp"):
        Tool.each(["mcp:x"])


def test_an_agent_is_offered_to_a_client_of_mcp_that_runs_it_sees_its_plan_and_stops_it(arm_checkpoint, tmp_path):
    mcp = pytest.importorskip("mcp", reason="the extra mcp is not installed")
    from anyio.from_thread import start_blocking_portal
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    tmp_path.chmod(0o700)
    root = Path(__file__).parents[1]
    paths = ":".join(map(str, (root, root / "configs/plugin", Path(mcp.__file__).parents[1])))
    words = "serve", f"checkpoint={arm_checkpoint}", f"address={tmp_path / 's'}", "mcp='robot=so101-sim viewer=none'"
    program = StdioServerParameters(
        command=sys.executable, args=["-m", "configs.commands", *words], env={**os.environ, "PYTHONPATH": paths}
    )
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        ends = stack.enter_context(portal.wrap_async_context_manager(stdio_client(program)))
        session = stack.enter_context(portal.wrap_async_context_manager(ClientSession(*ends)))
        portal.call(session.initialize)

        def call(name: str, **given) -> dict:
            return json.loads(portal.call(session.call_tool, name, given).content[0].text)

        assert call("plan")["tokens"] == [] and call("state") == {"running": False}
        assert call("run", episodes=9) == {"running": True}
        while call("state")["running"] and not call("plan")["decisions"]:
            time.sleep(0.2)
        assert len(call("plan")["tokens"][0]) % 6 == 0
        ended = call("stop")
        assert ended["exit_code"] == 128 + signal.SIGINT and ended["result"]["episodes"] < 9


def test_a_run_offered_to_a_client_goes_on_beside_it_one_at_a_time_and_its_result_is_told(monkeypatch):
    service = SimpleNamespace(agent=SimpleNamespace())
    offered = Offered(service, "run", "at", "robot=so101-sim target='[1, 2]'")
    assert offered._command[-4:] == ["checkpoint=run", "remote=at", "robot=so101-sim", "target=[1, 2]"]
    offered._command = [sys.executable, "-c", "import sys; print('so'); print('{}'); sys.exit(len(sys.argv))"]
    assert offered.state() == offered.stop() == {"running": False}
    offered.run(2)
    offered._process.wait()
    assert offered.state() == {"running": False, "exit_code": 2, "result": {}}
    waits = "import time, sys\ntry: print(1, flush=True); time.sleep(60)\nexcept KeyboardInterrupt: sys.exit(7)"
    offered._command = [sys.executable, "-c", waits]
    first = offered.run() and offered._process
    assert offered.run() == {"running": True} and offered._process is first
    while not offered._said.seek(0, 2):
        time.sleep(0.05)
    assert offered.stop() == offered.state() == {"running": False, "exit_code": 7, "result": 1}
    for name in ("mcp", "mcp.server.mcpserver"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"^mcp=robot=x: .*uv pip install 'mcp"):
        offer(service, print, "run", "at", "robot=x")


def test_a_tool_gets_the_simulated_body_that_it_is_used_in_and_does_not_tell_of_it():
    registry.register("tool", "shake")(lambda body, hard=True: f"{body} {hard}")
    registry.find("tool", "shake").__annotations__["hard"] = bool
    shake = Tool.of("shake")
    assert list(shake.parameters["properties"]) == ["hard"]
    assert shake({}, "this one") == "this one True" and shake({}) == "None True"


def test_what_is_expected_of_a_tool_is_what_it_brought_in_like_situations_and_the_hope_elsewhere(tmp_path, untaught):
    here, there = np.array([1.0, 0.0, 0.1]), np.array([0.0, 1.0, 0.1])
    uses = Uses({"knock": [([1.0, 0.0, 0.1], 0.0)] * 5 + [([0.0, 1.01, 0.1], 0.7)] * 5})
    assert uses.gain("knock", 0.99 * here) < 0.05 and 0.65 < uses.gain("knock", there) < 0.75
    assert uses.gain("knock", -here) > 0.95 and uses.gain("paint", here) == 1  # never used there, never at all
    uses.add("paint", here, 0.1)
    assert uses.gain("paint", here) == 1 and Uses(uses.all).gain("paint", here) < 0.2  # the next know
    for _ in range(MOST + 1):
        uses.add("paint", here, 0.2)
    assert len(uses.all["paint"]) == MOST
    checkpoint = untaught(tmp_path / "run")
    assert Uses.kept(checkpoint).all == {}
    Uses.kept(checkpoint, live=True).add("knock", here, 0.25)
    Uses.kept(checkpoint).add("knock", here, 0.5)
    assert Uses.kept(checkpoint).all == {"knock": [[[1.0, 0.0, 0.1], 0.25]]}
    for text, line in (
        ('{"uses": 3}', "not uses: "),
        ('{"uses": {}, "checkpoint": "x"}', "of another checkpoint"),
    ):
        (checkpoint / FILE).write_text(text)
        with pytest.raises(FolderError, match=rf"{FILE}: {line}.*without it"):
            Uses.kept(checkpoint)


def test_a_tool_that_is_not_there_or_not_typed_is_refused():
    with pytest.raises(UserError, match=r"tools=nothing: .*plugins="):
        Tool.of("nothing")
    registry.register("tool", "loose", lambda what: what)
    with pytest.raises(UserError, match=r"tools=\[loose\]: what: of type float, int, str, bool or a Literal of texts"):
        Tool.of("loose")

    def needy(what: str) -> str:
        return what

    registry.register("tool", "needy", needy)
    with pytest.raises(UserError, match=r"needy\.what: missing"):
        Tool.of("needy")({})
    plain = composed("evaluate", []) | {"checkpoint": "runs/any", "tools": ["knock"]}
    with pytest.raises(UserError, match=r"tools=\[knock\]: only with ladder=true"):
        Evaluation.begin(build(EvaluateConfig, plain))
