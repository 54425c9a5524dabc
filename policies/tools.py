"""Tools: what an agent may do besides moving, by functions of a user's own with typed parameters.

    from worldmodel.registry import register

    @register("tool", "knock")
    def knock(times: int = 2, where: Literal["drawer", "door"] = "drawer") -> str:
        \"""Knock against something that is stuck.\"""
        ...
        return "knocked twice"

The parameters are told as JSON Schema, as MCP's tools tell theirs.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from worldmodel import registry
from worldmodel.errors import UserError, in_one_line

TYPES: dict[Any, str] = {float: "number", int: "integer", str: "string", bool: "boolean"}
"""JSON's name of each type that a parameter may have, besides a Literal of texts."""


@dataclass(frozen=True)
class Tool:
    """A tool by its name: what it is for, its `parameters` as JSON Schema, and what it does."""

    name: str
    about: str
    parameters: dict
    function: Callable[..., Any]

    @classmethod
    def of(cls, name: str) -> "Tool":
        """Return a registered tool. Raises UserError if there is none, or for a parameter without a type of TYPES."""
        registry.check("tool", name, "tools")
        function = registry.find("tool", name)
        shown, required = {}, []
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            kind = parameter.annotation
            if get_origin(kind) is Literal and all(isinstance(each, str) for each in get_args(kind)):
                shown[parameter.name] = {"type": "string", "enum": [*get_args(kind)]}
            elif kind in TYPES:
                shown[parameter.name] = {"type": TYPES[kind]}
            else:
                known = ", ".join(each.__name__ for each in TYPES)
                raise UserError(f"tools=[{name}]: {parameter}: of type {known} or a Literal of texts")
            if parameter.default is parameter.empty:
                required.append(parameter.name)
            else:
                shown[parameter.name]["default"] = parameter.default
        schema = {"type": "object", "properties": shown, "required": required, "additionalProperties": False}
        return cls(name, (inspect.getdoc(function) or name).splitlines()[0], schema, function)

    def __call__(self, arguments: Mapping[str, Any]) -> str:
        """Use it; return what it did. Raises UserError for arguments unlike its parameters, or if it fails."""
        known = self.parameters["properties"]
        for name in (*self.parameters["required"], *arguments):
            if name not in known or name not in arguments:
                missing = "missing" if name in known else f"one of {', '.join(known) or 'none'}"
                raise UserError(f"{self.name}.{name}: {missing}")
        for name, value in arguments.items():
            kind, choices = known[name]["type"], known[name].get("enum", [value])
            fits = TYPES.get(type(value)) == kind or (kind == "number" and type(value) is int)
            if not fits or value not in choices:
                raise UserError(f"{self.name}.{name}={value!r}: {f'one of {choices}' if fits else kind}")
        try:
            return " ".join(str(self.function(**arguments)).split())
        except Exception as error:  # of whatever the function does
            raise UserError(f"tools=[{self.name}]: {type(error).__name__}: {in_one_line(error)}") from error
