"""Tools: what an agent may do besides moving, by functions of a user's own with typed parameters.

    from worldmodel.registry import register

    @register("tool", "knock")
    def knock(times: int = 2, where: Literal["drawer", "door"] = "drawer") -> str:
        \"""Knock against something that is stuck.\"""
        ...
        return "knocked twice"

The parameters are described as JSON Schema, as those of MCP's tools are: `mcp:<command>` stands for the tools of the
server that the command starts and speaks to by its standard input and output. `policies.cases` remembers what each use
brought.
"""

import atexit
import inspect
import math
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from worldmodel import registry
from worldmodel.errors import UserError, in_one_line

TYPES: dict[Any, str] = {float: "number", int: "integer", str: "string", bool: "boolean"}
"""JSON's name of each type that a parameter may have, besides a Literal of texts."""
MCP = "mcp:"  # prefix of the command of a server whose tools are meant
BODY = "body"
"""The parameter that gets the simulated environment where a tool is used, None on a robot; the schema leaves it out."""


@dataclass(frozen=True)
class Tool:
    """A tool by its name: what it is for, its `parameters` as JSON Schema, and what it does."""

    name: str
    about: str
    parameters: dict
    function: Callable[..., Any]
    bodily: bool = False  # its function has the parameter BODY, too

    @classmethod
    def each(cls, names: Sequence[str]) -> "list[Tool]":
        """Return registered tools and, for `mcp:<command>`, the server's that need no argument. Raises UserError."""
        found = [_served(name.removeprefix(MCP)) if name.startswith(MCP) else [cls.of(name)] for name in names]
        return [tool for tools in found for tool in tools]

    @classmethod
    def check(cls, names: Sequence[str]) -> None:
        """Raise UserError unless these tools are registered; which ones an MCP server has is asked later."""
        for name in names:
            if not name.startswith(MCP):
                cls.of(name)

    @classmethod
    def of(cls, name: str) -> "Tool":
        """Return a registered tool. Raises UserError if there is none, or for a parameter without a type of TYPES."""
        registry.check("tool", name, "tools")
        function = registry.find("tool", name)
        shown, required = {}, []
        known = inspect.signature(function, eval_str=True).parameters
        for parameter in (each for each in known.values() if each.name != BODY):
            kind = parameter.annotation
            if get_origin(kind) is Literal and all(isinstance(each, str) for each in get_args(kind)):
                shown[parameter.name] = {"type": "string", "enum": [*get_args(kind)]}
            elif kind in TYPES:
                shown[parameter.name] = {"type": TYPES[kind]}
            else:
                types = ", ".join(each.__name__ for each in TYPES)
                raise UserError(f"tools=[{name}]: {parameter}: of type {types} or a Literal of texts")
            if parameter.default is parameter.empty:
                required.append(parameter.name)
            else:
                shown[parameter.name]["default"] = parameter.default
        schema = {"type": "object", "properties": shown, "required": required, "additionalProperties": False}
        return cls(name, (inspect.getdoc(function) or name).splitlines()[0], schema, function, BODY in known)

    def __call__(self, arguments: Mapping[str, Any], body: Any = None) -> str:
        """Use it in a `body`; return what it did. Raises UserError for arguments unlike its parameters, a failure."""
        known = self.parameters["properties"]
        for name in (*self.parameters["required"], *arguments):
            if name not in known or name not in arguments:
                missing = "missing" if name in known else f"one of {', '.join(known) or 'none'}"
                raise UserError(f"{self.name}.{name}: {missing}")
        for name, value in arguments.items():
            kind, choices = known[name].get("type"), known[name].get("enum", [value])
            fits = kind in (None, TYPES.get(type(value))) or (kind == "number" and type(value) is int)
            if not fits or value not in choices:
                raise UserError(f"{self.name}.{name}={value!r}: {f'one of {choices}' if fits else kind}")
        try:
            return " ".join(str(self.function(**arguments, **({BODY: body} if self.bodily else {}))).split())
        except Exception as error:  # of whatever the function does
            raise UserError(f"tools=[{self.name}]: {type(error).__name__}: {in_one_line(error)}") from error


def _served(command: str) -> list[Tool]:
    """Return the tools of an MCP server, which runs until this process ends. Raises UserError."""
    where = f"tools=[mcp:{command}]"
    try:
        from anyio.from_thread import start_blocking_portal
        from mcp import ClientSession, StdioServerParameters
        from mcp.client.stdio import stdio_client
    except ImportError as error:
        raise UserError(f"{where}: {error}; uv pip install 'mcp>=2.3,<3'") from error
    stack = ExitStack()
    atexit.register(stack.close)
    try:
        program, *arguments = shlex.split(command)
        portal = stack.enter_context(start_blocking_portal())
        ends = portal.wrap_async_context_manager(stdio_client(StdioServerParameters(command=program, args=arguments)))
        session = stack.enter_context(portal.wrap_async_context_manager(ClientSession(*stack.enter_context(ends))))
        portal.call(session.initialize)
        listed = portal.call(session.list_tools).tools
    except Exception as error:  # of whatever the server does
        stack.close()
        raise UserError(f"{where}: {type(error).__name__}: {in_one_line(error)}") from error

    def use(name: str) -> Callable[..., str]:
        def call(**given: Any) -> str:
            result = portal.call(session.call_tool, name, given)
            said = " ".join(getattr(part, "text", type(part).__name__) for part in result.content)
            if result.is_error:
                raise RuntimeError(said)
            return said

        return call

    plain: dict = {"properties": {}, "required": []}
    tools = [
        Tool(each.name, each.description or each.name, plain | each.input_schema, use(each.name)) for each in listed
    ]
    return [tool for tool in tools if not tool.parameters["required"]]


class Asker:
    """Asks a person a question with choices, "" and () for none, never waiting: whoever calls `answer` answers it."""

    def __init__(self, timeout_s: float, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        """Let `timeout_s` pass for an answer; `say` gets the question as lines for people."""
        self._timeout_s, self._say, self._clock = timeout_s, say, clock
        self.question, self.choices, self._reply, self._until = "", tuple[str, ...](), "", math.inf

    def begin(self, question: str, choices: Sequence[str]) -> None:
        """Ask; a person at a terminal may type the number of a choice."""
        self.question, self.choices, self._reply = question, tuple(choices), ""
        self._until = self._clock() + self._timeout_s
        numbered = ", ".join(f"{number}: {each}" for number, each in enumerate(choices, 1))
        self._say(f"{question} {numbered}; within {self._timeout_s:g} s")
        if sys.stdin is None or not sys.stdin.isatty():
            self._say("(no terminal to answer at: only a page, viewer=web, or Python can)")
        else:
            threading.Thread(target=self._read, daemon=True).start()

    def answer(self, number: int) -> bool:
        """Take a choice, from 1; return whether it is one of those asked for now."""
        if not self.question or not 1 <= number <= len(self.choices):
            return False
        self._reply = self.choices[number - 1]
        return True

    def poll(self) -> str | None:
        """Return the answer, "" if none came in time, None as long as one may come."""
        if not self._reply and self._clock() < self._until:
            return None
        self.question, self.choices = "", ()
        return self._reply

    def _read(self) -> None:
        while self.question:
            line = sys.stdin.readline()
            if not line or (line.strip().isdecimal() and self.answer(int(line))):
                return
            if self.question:
                self._say(f"{line.strip()!r}: a number from 1 to {len(self.choices)}")
