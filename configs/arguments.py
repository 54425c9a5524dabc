"""Command-line arguments: how to type them, which of them were given, and one-line messages about invalid ones."""

import re
import shlex
from collections.abc import Iterable, Sequence

from configs.help_text import choices, entries, keys
from configs.schema import AgentConfig
from envs.senses import check_image_size
from envs.settings import ARM_DEFAULTS, ARM_TASKS, find
from worldmodel.errors import UserError, in_one_line
from worldmodel.strict import ConfigError, unknown

GROUPS = {"token": "model.token"}
"""The place in a config of those groups whose keys are not below the group's own name."""
EXTRAS = {"joblib": "sweep", "submitit_local": "cluster", "submitit_slurm": "cluster"}
"""Hydra's launchers, and the extra that brings each."""


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


def given() -> set[str]:
    """Return the dotted keys that the user set on the command line."""
    from hydra.core.hydra_config import HydraConfig

    return named(HydraConfig.get().overrides.task)


def named(arguments: Iterable[str]) -> set[str]:
    """Return the dotted keys that these arguments set."""
    return {text.lstrip("+~").partition("=")[0].partition("@")[0] for text in arguments}


def check_eyes(config: AgentConfig, about: set[str]) -> None:
    """Raise ValueError if the user set image_size or vision keys that apply to no camera of the config.

    `about`: the dotted keys that the user set.
    """
    if "image_size" in about:
        check_image_size(config.senses)
    vision = [name for name in sorted(about) if name.startswith("model.vision.")]
    if vision and not config.perceived.cameras:
        raise ConfigError(f"{vision[0]}: only with a camera among the senses, e.g. senses=[state,images.main]")


def moved() -> bool:
    """Return whether the user chose the run folder (`hydra.run.dir=`)."""
    from hydra.core.hydra_config import HydraConfig

    return any(text.startswith("hydra.run.dir=") for text in HydraConfig.get().overrides.hydra)


def check_groups(name: str, arguments: Sequence[str]) -> None:
    """Raise ConfigError for a config group of the command `name` that is not given a name, or several for a sweep.

    Hydra would merge a list's, and end with a traceback for other values.
    """
    groups = [entry.name for entry in entries(name) if entry.kind == "group"]
    for argument in arguments:
        group, _, value = argument.partition("=")
        names = value.split(",")
        if group in groups and not all(re.fullmatch(r"(?!null$)[A-Za-z_][\w.:-]*", name) for name in names):
            raise ConfigError(_no_choice(group, value))


def explain(error: Exception, name: str, arguments: Sequence[str]) -> str:
    """Condense an error of Hydra's into one line, with the valid choices.

    `name`: the command's config; `arguments`: what Hydra was given.
    """
    text = str(error)
    if found := re.search(r"Could not override '([^']+)'", text):
        if found[1] in {f"task.{key}" for key in ARM_DEFAULTS}:
            return f"{found[1]}: only for the SO-101's tasks ({', '.join(ARM_TASKS)})"
        return unknown(found[1], list(keys(name)))
    if found := re.search(r"Could not find '(.+)/([^'/]*)'", text):
        return _no_choice(*found.groups())
    if "override_grammar" in text or text.startswith("Ambiguous value"):
        return _unreadable(arguments)
    return in_one_line(error)


def _no_choice(group: str, value: str) -> str:
    """Return a one-line message about a value that a config group lacks, with the valid names."""
    if group == "task":
        try:
            find(value)
        except UserError as missing:
            return in_one_line(missing)
    if group == "hydra/launcher" and value in EXTRAS:
        return f"{group}={value}: pip install 'semagram[{EXTRAS[value]}]' brings it"
    return f"{group}={value}: one of {', '.join(choices(group))}"


def _unreadable(arguments: Sequence[str]) -> str:
    """Return a one-line message about the one of the arguments that Hydra cannot parse."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for argument in arguments:
        if argument.startswith("-"):
            continue
        if "=" not in argument:
            return f"{argument}: keys are given as key=value"
        try:
            if not OverridesParser.create().parse_override(argument).is_sweep_override():
                continue
            if " " not in argument:
                return f"{argument}: several values are for a sweep, with -m; a list is [a,b]"
        except HydraException:
            pass
        if ",]" in argument:
            return f"{argument}: a list does not end with a comma"
        return f"{argument}: a value with signs such as , ! ' = needs quotes in quotes, e.g. \"sentence='a, b'\""
    return f"{' '.join(arguments)}: keys are given as key=value"
