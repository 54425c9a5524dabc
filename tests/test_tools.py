"""Laws of a user's own tools: typed, told as JSON Schema, used by the ladder where all else failed."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from configs.command import composed
from configs.runs.evaluation import Evaluation
from configs.schema import EvaluateConfig
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
