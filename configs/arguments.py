"""The arguments of a command: what they may be, how to type them, which were given, and what is wrong with them.

`--help` and the names of the keys are read from the YAML files, without Hydra. A file holds, in this order: texts (a
comment that ends at an empty line), keys and groups, each below its comment or with the comment behind it, and texts
again.
"""

import re
import shlex
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from envs.settings import ARM_DEFAULTS, ARM_TASKS, NAMES, find
from worldmodel.errors import UserError, in_one_line
from worldmodel.strict import ConfigError, unknown

GROUPS = {"token": "model.token"}
"""The place in a config of those groups whose keys are not below the group's own name."""
EXTRAS = {
    "hydra/launcher": {"joblib": "sweep", "submitit_local": "cluster", "submitit_slurm": "cluster", "ray": "ray"},
    "hydra/sweeper": {"optuna": "optuna"},
}
"""Hydra's launchers and sweepers, and the extra that brings each."""
FOLDER = Path(__file__).parent
GENERATED = "task"
"""The group most of whose choices are generated from a list of names (`configs.command.register`)."""
OPEN = ("learning.losses", "task.kwargs")
"""Groups without keys of their own: what they hold is named by the user."""
LEFT, WIDTH = 30, 120
LINE = re.compile(
    r"(?P<indent> *)(?P<dash>- )?(?P<key>[\w/@ ]+?)(:| *$)(?P<value>(?: *(?:\"[^\"]*\"|\[[^\]]*\]|\{.*\}|[^# ][^#]*))?)"
    r" *(?:# (?P<comment>.*))?$"
)
PLACE = re.compile(r"\$\{(?:semagram\.)?(?:hydra\.job\.)?(\w+)(?::(?:[^{}]|\$\{[^}]*\})*)?\}")
"""A value that Hydra fills in, such as ${seed} or ${now:%Y}."""


@dataclass(frozen=True)
class Entry:
    """A key by its dotted name (`kind` "key"), a config group ("group"), or a text without a key ("text")."""

    kind: str
    name: str = ""
    default: str = ""
    comment: str = ""


@cache
def entries(name: str, place: str = "") -> tuple[Entry, ...]:
    """Return what stands in configs/`name`.yaml, with what its defaults list includes; `place`: before its keys."""
    found: list[Entry] = []
    included: list[Entry] = []
    comment: list[str] = []
    path: list[str] = [place] if place else []
    head = len(path)
    for line in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("# @package") or (not text and not comment):
            continue
        if text.startswith("#"):
            comment.append(text[2:])
            continue
        if not text:
            found.append(Entry("text", comment="\n".join(comment)))
            comment = []
            continue
        part = LINE.fullmatch(line)
        assert part, f"{name}.yaml: {line}"
        said, comment = "\n".join([*comment, *filter(None, [part["comment"]])]), []
        key, value = part["key"].strip(), part["value"].strip()
        if part["dash"]:
            if value:
                found += [Entry("group", key, value.strip('"'), said)] * (not key.startswith("override"))
            elif key != "_self_":
                included += [entry for entry in entries(key) if entry.kind != "text" and entry.name[:6] != "hydra."]
            continue
        path[head + len(part["indent"]) // 2 :] = [key]
        if path[0] not in ("defaults", "hydra"):
            found.append(Entry("key" if value else "text", ".".join(path), value, said))
        elif said:
            found += [*included, Entry("key", ".".join(path), PLACE.sub(r"<\1>", value), said)]
            included = []
    return (*found, *included, *[Entry("text", comment="\n".join(comment))] * bool(comment))


def choices(group: str) -> dict[str, str]:
    """Return the files of a config group, in order: the name of each, and its first line, which says what it is."""
    said = re.compile(r"^# (?!@package)(.*)", re.MULTILINE)
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((FOLDER / group).glob("*.yaml"))}
    return {name: found[1] if (found := said.search(text)) else "" for name, text in texts.items()}


def keys(name: str) -> dict[str, str]:
    """Return every dotted key of a command, with its comment; those of the groups' options, too."""
    found = {entry.name: entry.comment for entry in entries(name) if entry.kind != "text" or entry.name}
    for entry in [entry for entry in entries(name) if entry.kind == "group"]:
        found |= {part.name: part.comment for part in _of_group(entry.name) if part.name}
    return found


def _of_group(group: str) -> list[Entry]:
    """Return the keys that a group's options explain."""
    return [part for file, place in EXPLAINING.get(group, {}).items() for part in entries(file, place)]


EXPLAINING = {
    "task": {"task/keys/any": "task", "task/keys/so101": "task"},
    "token": {"token/step": "model.token"},
    "randomise": {"randomise/off": "randomise"},
    "suite": {"suite/dmc-quick": ""},
}
"""For each group whose options share keys: the files that explain these, and the place of the keys in a config."""


def page(name: str) -> str:
    """Return the help of a command."""
    lines = [line for entry in entries(name) for line in _shown(entry)]
    for group in [entry.name for entry in entries(name) if entry.kind == "group"]:
        lines += ["", f"{group}=, one of:", ""]
        if group == GENERATED:
            lines += _wrapped("", ", ".join(NAMES))
        lines += [line for choice, text in choices(group).items() for line in _wrapped(choice, text)]
        lines += [line for part in _of_group(group) if part.comment for line in _shown(part)]
    return "\n".join(lines)


def _shown(entry: Entry) -> Iterator[str]:
    if entry.kind == "text":
        yield from ["", *entry.comment.splitlines()] if entry.comment else []
        return
    default = entry.default if len(entry.default) < WIDTH - LEFT else "{...}"
    yield from _wrapped(f"{entry.name}={default}", " ".join(entry.comment.splitlines()))


def _wrapped(left: str, text: str) -> list[str]:
    """Return lines with `left` in the first column and `text` in the second."""
    right = textwrap.wrap(text, WIDTH - LEFT - 1, break_on_hyphens=False) or [""]
    if len(left) > LEFT - 4:
        return [f"  {left}", *(" " * LEFT + line for line in right)]
    return [f"  {left:<{LEFT - 2}}{right[0]}".rstrip(), *(" " * LEFT + line for line in right[1:])]


def quoted(value: object) -> str:
    """Quote a value so that Hydra parses it back unchanged; to Hydra a backslash escapes only before a quote."""
    text = re.sub(r"(\\*)'", r"\1\1\\'", str(value))
    return "'" + re.sub(r"(\\+)$", r"\1\1", text) + "'"


def typed(key: str, value: object) -> str:
    """Return `key=value` as typed in a shell, quoted where the shell or Hydra would otherwise misread it."""
    if re.fullmatch(r"[\w./:@%+-]+", str(value), re.ASCII):
        return f"{key}={value}"
    word = f"{key}={quoted(value)}"
    return shlex.quote(word) if set(word) & set('"$`\\!') else f'"{word}"'  # the latter as a person would type


def going_on(path: Path, plugins: Sequence[str] = ()) -> str:
    """Return the command that goes on with the run in a folder, which names its plugins again."""
    names = [name if re.fullmatch(r"[\w./-]+", name, re.ASCII) else quoted(name) for name in plugins]
    own = f" {shlex.quote(f'plugins=[{",".join(names)}]')}" if plugins else ""
    return f"semagram-train {typed('resume', path)}{own}"


def opened(arguments: Iterable[str]) -> list[str]:
    """Return arguments with which Hydra takes the keys that a user names (`OPEN`), and `guidance=` as its group's."""
    arguments = [re.sub(r"^guidance=", "guidance.folders=", text) for text in arguments]
    return [f"++{text}" if re.match(rf"({'|'.join(OPEN)})[.=]", text) else text for text in arguments]


def given() -> set[str]:
    """Return the dotted keys that the user set on the command line."""
    from hydra.core.hydra_config import HydraConfig

    return named(HydraConfig.get().overrides.task)


def named(arguments: Iterable[str]) -> set[str]:
    """Return the dotted keys that these arguments set."""
    return {text.lstrip("+~").partition("=")[0].partition("@")[0] for text in arguments}


def moved() -> bool:
    """Return whether the user chose the run folder (`hydra.run.dir=`)."""
    from hydra.core.hydra_config import HydraConfig

    return any(text.startswith("hydra.run.dir=") for text in HydraConfig.get().overrides.hydra)


def check_groups(name: str, arguments: Sequence[str]) -> None:
    """Raise ConfigError for a group that is not given a name or several, a key without `=` or with dashes."""
    groups = [entry.name for entry in entries(name) if entry.kind == "group"]
    for argument in arguments:
        bare = argument.lstrip("-")
        if argument.startswith("--") and bare.partition("=")[0] in keys(name):
            raise ConfigError(f"{argument}: keys are set without dashes: {bare}")
        if argument in keys(name):
            raise ConfigError(f"{argument}: a key and its value are one word: {argument}=<value>")
        if argument.startswith("~") and (key := argument[1:].partition("=")[0]) in keys(name):
            off = "false" if key == "video" else "<value>"
            raise ConfigError(f"{argument}: a key cannot be left out; {key}={off}")
        if argument == "hydra.run.dir=":
            raise ConfigError(f"{argument}: a folder for the results, e.g. hydra.run.dir=runs/mine")
        group, _, value = argument.partition("=")
        names = value.split(",")
        if group in groups and not all(re.fullmatch(r"(?!null$)[A-Za-z_][\w.:-]*", name) for name in names):
            raise ConfigError(_no_choice(group, value))


def explain(error: Exception, name: str) -> str:
    """Condense an error in composing the command `name` into one line, with the valid choices."""
    from yaml import YAMLError

    if key := getattr(error, "full_key", None):  # from a value that interpolates others
        return f"{key}: {str(error).splitlines()[0]}"
    text = str(error)
    if found := re.search(r"Could not override '([^']+)'", text):
        if found[1] in {f"task.{key}" for key in ARM_DEFAULTS}:
            return f"{found[1]}: only for the SO-101's tasks ({', '.join(ARM_TASKS)})"
        return unknown(found[1], list(keys(name)))
    if found := re.search(r"Could not find '(.+)/([^'/]*)'", text):
        return _no_choice(*found.groups())
    line, argument = in_one_line(error).partition(" See https://")[0], getattr(error, "override", None) or ""
    if isinstance(error, YAMLError):  # of a file under --config-dir
        line = f"not YAML: {line}"
    key = argument.partition("=")[0].lstrip("+~")
    if re.fullmatch(r"[\w.]+", key) and key not in {*keys(name), *GROUPS} and not key.startswith("hydra."):
        return unknown(key, list(keys(name)))
    value = argument.partition("=")[2]
    if re.search(r"mismatched|extraneous|[vV]iable", line) and not {*value} & {*"'\"[]{}"}:
        line = f"such a text needs quotes inside quotes: \"{key}='{value}'\""
    if found := re.search(r"override '([^'=]+)' missing EQUAL", line):
        likely = next((key for key in ("task", "checkpoint", "run") if key in keys(name)), "<key>")
        line = f"{found[1]}: arguments are <key>=<value>, e.g. {likely}={found[1]}"
    if any(value.count(opening) != value.count(closing) for opening, closing in ("[]", "{}", "()")):
        line = "a bracket is not closed"
    return line if argument in line else f"{argument}: {line}"


def brought_by(extra: str) -> str:
    """Say how an extra is installed."""
    return f"`uv sync --extra {extra}` in a clone, else `pip install 'semagram[{extra}]'`, brings it"


def _no_choice(group: str, value: str) -> str:
    """Return a one-line message about a value that a config group lacks, with the valid names."""
    if group == "task":
        try:
            find(value)
        except UserError as missing:
            return in_one_line(missing)
    if value in EXTRAS.get(group, ()):
        return f"{group}={value}: {brought_by(EXTRAS[group][value])}"
    if group in EXTRAS:
        return f"{group}={value}: one of {', '.join(EXTRAS[group])}"
    if not (known := choices(group)):
        return f"{group}={value}: there is no such choice"
    return f"{group}={value}: one of {', '.join(known)}"
