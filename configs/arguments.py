"""Command-line arguments: the keys that a command accepts, and one-line messages about invalid arguments."""

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields

from omegaconf import DictConfig

from configs.reporting import refuse
from configs.schema import AgentConfig, PeerConfig
from envs.senses import check_image_size
from envs.settings import ARM_DEFAULTS, ARM_TASKS, TaskConfig, find
from robot.safety.faults import in_one_line
from sim.variation import Variation
from worldmodel.mistakes import Mistake
from worldmodel.settings import TokenConfig
from worldmodel.strict import ConfigError, unknown

GROUPS = {
    "task": ("task", TaskConfig),
    "randomise": ("randomise", Variation),
    "token": ("model.token", TokenConfig),
    "peer": ("peer", PeerConfig),
}
"""The config groups, chosen by name: for each, its dotted place in a config and the dataclass of its settings."""


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
    vision = [name for name in sorted(about) if re.fullmatch(r"model\.vision\..*", name)]
    if vision and not config.perceived.cameras:
        raise ConfigError(f"{vision[0]}: only with a camera among the senses, e.g. senses=[state,images.main]")


def moved() -> bool:
    """Return whether the user chose the run folder (`hydra.run.dir=`)."""
    from hydra.core.hydra_config import HydraConfig

    return any(text.startswith("hydra.run.dir=") for text in HydraConfig.get().overrides.hydra)


def explain(error: Exception, name: str, arguments: Sequence[str]) -> str:
    """Condense an error of Hydra's into one line, with the valid choices.

    `name`: the command's config; `arguments`: what Hydra was given.
    """
    text = str(error)
    if found := re.search(r"Could not override '([^']+)'", text):
        if found[1] in {f"task.{key}" for key in ARM_DEFAULTS}:
            return f"{found[1]}: only for the SO-101's tasks ({', '.join(ARM_TASKS)})"
        return unknown(found[1], known_keys(name))
    if "override_grammar" in text or text.startswith("Ambiguous value"):
        return _unreadable(arguments)
    if (found := re.search(r"Could not find '([^'/]+)/([^']*)'", text)) and found[1] in GROUPS:
        return _no_choice(*found.groups())
    return in_one_line(error)


def _no_choice(group: str, value: str) -> str:
    """Return a one-line message about a value that a config group lacks, with the valid names."""
    from hydra.core.config_store import ConfigStore

    if group == "task":
        try:
            find(value)
        except Mistake as missing:
            return in_one_line(missing)
    names = sorted(name.removesuffix(".yaml") for name in ConfigStore.instance().list(group))
    return f"{group}={value}: one of {', '.join(names)}"


def check_arguments(name: str) -> None:
    """Refuse, in one line, multirun options and config groups whose value is not a name.

    Hydra would print a traceback for the latter.
    """
    from hydra.core.config_store import ConfigStore
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    groups = _groups(ConfigStore.instance().load(f"{name}.yaml").node)
    for argument in sys.argv[1:]:
        if argument.startswith("-m") or (len(argument) > 2 and "--multirun".startswith(argument)):
            refuse(f"{argument}: a command makes one run; semagram-bench makes many")
        try:
            override = OverridesParser.create().parse_override(argument)
        except HydraException:
            continue  # an option, or an argument that Hydra itself will refuse
        if override.key_or_group == "hydra.mode":
            refuse(f"{argument}: a command makes one run; semagram-bench makes many")
        if override.key_or_group in groups and not isinstance(override.value(), str):
            refuse(_no_choice(override.key_or_group, argument.partition("=")[2]))


def _unreadable(arguments: Sequence[str]) -> str:
    """Return a one-line message about the one of the arguments that Hydra cannot parse."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for argument in arguments:
        if "=" not in argument:
            return f"{argument}: keys are given as key=value"
        try:
            if not OverridesParser.create().parse_override(argument).is_sweep_override():
                continue
        except HydraException:
            pass
        if ",]" in argument:
            return f"{argument}: a list does not end with a comma"
        return f"{argument}: a value with signs such as , ! ' = needs quotes in quotes, e.g. \"sentence='a, b'\""
    return f"{' '.join(arguments)}: keys are given as key=value"


def known_keys(name: str) -> list[str]:
    """Return every dotted key of a command's config."""
    from hydra.core.config_store import ConfigStore

    node, keys = ConfigStore.instance().load(f"{name}.yaml").node, []

    def walk(node, prefix: str) -> None:
        for key, value in node.items():
            if prefix or key not in ("defaults", "hydra"):
                keys.append(f"{prefix}{key}")
                if isinstance(value, DictConfig):
                    walk(value, f"{prefix}{key}.")

    walk(node, "")
    for group in _groups(node):
        place, settings = GROUPS[group]
        keys += [group, *(f"{place}.{field.name}" for field in fields(settings))]
    return ["task" if key == "job" else key for key in keys]  # semagram-record's `job`, which its user types as `task`


def _groups(node: DictConfig) -> list[str]:
    """Return the names of the config groups in a config's defaults list."""
    return [group for part in node.defaults if isinstance(part, DictConfig) for group in part if group in GROUPS]
