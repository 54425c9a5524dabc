"""How a command starts and ends: help, Hydra, one line for a mistake, one JSON line for a result."""

import errno
import json
import logging
import os
import re
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from configs.schema import PeerConfig
from configs.store import register
from configs.strict import ConfigError, unknown
from envs.senses import Senses
from envs.settings import ARM_DEFAULTS, ARM_TASKS, TaskConfig, find, label
from robot.safety.faults import in_one_line
from robot.safety.signals import SIGNALS, Stopped
from sim.variation import Variation
from worldmodel.mistakes import MachineFault, Mistake
from worldmodel.settings import VisionConfig

FAILED, MISTAKE = 1, 2
SIGNALLED = 128
"""A signal's number is added."""
TRACEBACK = "SEMAGRAM_TRACEBACK"
"""An environment variable: where it is set, whatever ends a command is told with its traceback."""
PASSING = (MachineFault, ConnectionError, TimeoutError)
GIVEN = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError, socket.gaierror)
GIVEN_NUMBERS = (
    None,  # what is said in words
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EROFS,
    errno.EINVAL,
    errno.ENOTTY,
    errno.EADDRINUSE,
    errno.EADDRNOTAVAIL,
)
"""The system's errors that mean a path, a device or an address which the user gave; any other may pass."""
GROUPS = {
    "task": ("task", TaskConfig),
    "randomise": ("randomise", Variation),
    "vision": ("model.vision", VisionConfig),
    "peer": ("peer", PeerConfig),
}
"""What is chosen by name: where its settings stand in a config, and which they are."""


class Ended(Exception):
    """The work ended early, and not by the user's mistake: the one line about it, and the exit code."""

    def __init__(self, line: str, code: int = FAILED):
        super().__init__(line)
        self.code = code


def run(name: str, help_text: str, body: Callable[[dict, Path], dict]) -> list[dict]:
    """Compose the config `name`, call `body(keys and values, run folder)`, print its result as the last line.

    A mistake of the user's (Mistake, or OSError of what they gave), or a number that is not finite, ends the program
    with one line on stderr and exit code 2; what may pass (a full disk, a port that is gone) with one line and 1; Ended
    with its own; Ctrl-C, or another signal that was taken for it (`robot.safety.signals`), with 128 + its number.
    Anything else that is raised is a defect: a traceback, and 1. A folder that is still empty then is removed. Returns
    what was printed.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        with _unread():
            print(help_text, flush=True)
        return []
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from configs.footprint import prune

    os.environ["HYDRA_FULL_ERROR"] = "1"
    traced = bool(os.environ.get(TRACEBACK))
    warnings.formatwarning = lambda message, *place, **line: f"semagram: {message}\n"  # not where in the code, too
    OmegaConf.register_new_resolver("semagram.label", label, replace=True)
    OmegaConf.register_new_resolver("semagram.process", os.getpid, replace=True)
    register()
    _check_arguments(name)
    outcome: list[dict | Exception] = []

    def task(config: DictConfig) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            outcome.append(body(OmegaConf.to_container(config, resolve=True), folder))
        except (Mistake, OSError, ArithmeticError, Ended) as error:
            if traced or isinstance(error, ZeroDivisionError | OverflowError):  # Python's; ours are of NaN
                raise
            outcome.append(error)
        finally:
            prune()

    logging.getLogger("robot.safety.gated").disabled = True  # of a fault the command tells itself
    try:
        # SIGTERM and SIGHUP (the terminal closed) end the program as Ctrl-C does, with all that it began.
        with (
            handled(_stop, (signal.SIGTERM, signal.SIGHUP)),
            nullcontext() if traced else _unread(),
        ):
            hydra.main(version_base="1.3", config_path=None, config_name=name)(task)()
    except HydraException as error:
        _refuse(_explain(error, name))
    except OmegaConfBaseException as error:  # of a value that refers to others
        _refuse(f"{error.full_key}: {str(error).splitlines()[0]}" if error.full_key else in_one_line(error))
    except OSError as error:  # Hydra makes the run folder
        if traced:
            raise
        _refuse(in_one_line(error), _code(error))
    except KeyboardInterrupt as stop:
        line = in_one_line(stop) if str(stop) else "interrupted"
        _refuse(line, SIGNALLED + getattr(stop, "number", signal.SIGINT))
    for end in outcome:
        _tell(end)
    return outcome


def _tell(end: dict | Exception) -> None:
    """The last line: of what came of it on stdout, or of what ended it on stderr."""
    if isinstance(end, Exception):
        _refuse(in_one_line(end), _code(end))
    try:
        with _unread():
            print(json.dumps(end))
    except OSError as error:  # a full disk
        _drop()
        _refuse(f"stdout: {error.strerror}", FAILED)


def _code(error: Exception) -> int:
    """The exit code of an error that is told in one line: MISTAKE where another try would come to the same."""
    if isinstance(error, Ended):
        return error.code
    if isinstance(error, Mistake) or not isinstance(error, OSError):
        return MISTAKE
    given = isinstance(error, GIVEN) or error.errno in GIVEN_NUMBERS
    return MISTAKE if given and not isinstance(error, PASSING) else FAILED


def _stop(number: int, _frame) -> None:
    raise Stopped(number)


@contextmanager
def handled(handler: Callable, numbers: Sequence[int] = SIGNALS) -> Iterator[None]:
    """These signals, but one that is ignored (SIGHUP under nohup), go to `handler`: SIGINT, SIGTERM and SIGHUP."""
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def _unread() -> Iterator[None]:
    """Where nobody reads stdout any more (`| head`) the rest of it is dropped, quietly."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _drop()


def _drop() -> None:
    """Let stdout lead nowhere: what it still holds would fail again at the program's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """A line on stderr, above a progress bar."""
    tqdm.write(text, file=sys.stderr)


def given() -> set[str]:
    """The keys that the user set on the command line, dotted."""
    from hydra.core.hydra_config import HydraConfig

    return {text.lstrip("+~").partition("=")[0].partition("@")[0] for text in HydraConfig.get().overrides.task}


def check_eyes(senses: Senses) -> None:
    """Raise ConfigError for settings of the eyes that the user gave to an agent without any."""
    about = [name for name in sorted(given()) if re.fullmatch(r"vision|model\.vision\..*|image_size", name)]
    if about and not senses.cameras:
        raise ConfigError(f"{about[0]}: only with a camera among the senses, e.g. senses=[state,images.main]")


def moved() -> bool:
    """Whether the user said where to put the run folder."""
    from hydra.core.hydra_config import HydraConfig

    return any(text.startswith("hydra.run.dir=") for text in HydraConfig.get().overrides.hydra)


def _refuse(message: str, code: int = MISTAKE) -> None:
    print(f"semagram: {message}", file=sys.stderr)
    raise SystemExit(code)


def _explain(error: Exception, name: str) -> str:
    """Hydra's paragraphs as one line, with the valid choices."""
    text = str(error)
    if found := re.search(r"Could not override '([^']+)'", text):
        if found[1] in {f"task.{key}" for key in ARM_DEFAULTS}:
            return f"{found[1]}: only for the SO-101's tasks ({', '.join(ARM_TASKS)})"
        return unknown(found[1], known_keys(name))
    if "override_grammar" in text or text.startswith("Ambiguous value"):
        return _unreadable()
    if (found := re.search(r"Could not find '([^'/]+)/([^']*)'", text)) and found[1] in GROUPS:
        return _no_choice(*found.groups())
    return in_one_line(error)


def _no_choice(group: str, value: str) -> str:
    """What is right instead of a name that a group of settings does not have."""
    from hydra.core.config_store import ConfigStore

    if group == "task":
        try:
            find(value)
        except Mistake as missing:
            return in_one_line(missing)
    names = sorted(name.removesuffix(".yaml") for name in ConfigStore.instance().list(group))
    return f"{group}={value}: one of {', '.join(names)}"


def _check_arguments(name: str) -> None:
    """Refuse, in a line, several runs, and a group of settings that is set to no name: Hydra has a traceback for it."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    groups = _groups(ConfigStore.instance().load(f"{name}.yaml").node)
    for argument in sys.argv[1:]:
        if argument.startswith("-m") or (len(argument) > 2 and "--multirun".startswith(argument)):
            _refuse(f"{argument}: a command makes one run; semagram-bench makes many")
        try:
            override = OverridesParser.create().parse_override(argument)
        except HydraException:
            continue  # an option, or what Hydra itself refuses
        if override.key_or_group == "hydra.mode":
            _refuse(f"{argument}: a command makes one run; semagram-bench makes many")
        if override.key_or_group in groups and not isinstance(override.value(), str):
            _refuse(_no_choice(override.key_or_group, argument.partition("=")[2]))


def _unreadable() -> str:
    """What is wrong with the argument that Hydra cannot read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for argument in sys.argv[1:]:
        if "=" not in argument:
            return f"{argument}: keys are given as key=value"
        try:
            if not OverridesParser.create().parse_override(argument).is_sweep_override():
                continue
        except HydraException:
            pass
        return f"{argument}: a value with signs such as , ! ' = needs quotes in quotes, e.g. \"sentence='a, b'\""
    return f"{' '.join(sys.argv[1:])}: keys are given as key=value"


def known_keys(name: str) -> list[str]:
    """Every key of a command's config, dotted."""
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
    return ["task" if key == "job" else key for key in keys]  # of semagram-record: what its user calls it


def _groups(node: DictConfig) -> list[str]:
    """The groups of settings from which a config is put together."""
    return [group for part in node.defaults if isinstance(part, DictConfig) for group in part if group in GROUPS]
