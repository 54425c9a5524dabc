"""The life of a command: --help and --version, composing its config with Hydra, the work, the exit code."""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

TRACEBACK = "SEMAGRAM_TRACEBACK"
"""Environment variable: if set, any error that ends a command is shown with its traceback."""
GYMNASIUM = re.compile(r"(?:(?<=^)|(?<=^task=)|(?<=,))(?:[\w.]+:)?[A-Za-z]\w*-v\d+(?=,|$)")
"""Ids of Gymnasium environments, in the value of an argument `task=`, or alone."""
HOME = Path(__file__).parents[1]
PACKAGES = {"configs", "envs", "policies", "robot", "sim", "worldmodel"}

type Body = Callable[[dict, Path], dict]
type Code = Callable[[dict], int]


def run(name: str, body: Body, code: Code = lambda result: 0) -> None:
    """Compose configs/`name`.yaml, call `body(keys, run_folder)` and print its result as one JSON line on stdout.

    A sweep (`-m`) runs each of its members in a process of its own (`configs.sweep`). These end the program with one
    line on stderr and an exit code:

    - 2: a mistake of the user's (UserError, or an OSError about a path or address they gave), or a non-finite number;
    - 1: a condition that may pass (a full disk, a port that has gone, too little memory);
    - `Ended.code`: Ended; `code(result)`, if it is not 0, without a line;
    - 128 + the signal's number: Ctrl-C, or another stop signal (`robot.safety.stops`).

    Any other exception is a bug: a traceback, and exit code 1. Folders made for the run that are still empty at its
    end are removed.
    """
    try:
        if {"-h", "--help"} & set(sys.argv[1:]):
            from configs.arguments import page

            _print(page(name))
        elif "--version" in sys.argv[1:]:
            from importlib.metadata import version

            from policies.storage.folders import commit

            _print(f"semagram {version('semagram')}, code {commit()}")
        else:
            _main(name, body, code)
    except KeyboardInterrupt as stop:
        print(f"semagram: {' '.join(str(stop).split()) or 'interrupted'}", file=sys.stderr)
        raise SystemExit(128 + getattr(stop, "number", signal.SIGINT)) from None
    except ImportError as error:
        if not (hidden := _hiding(error)):
            raise
        print(f"semagram: {hidden}", file=sys.stderr)
        raise SystemExit(2) from None


def _main(name: str, body: Body, code: Code) -> None:
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from configs.arguments import check_groups, explain, opened
    from configs.reporting import code_of, foreseen, refuse, unread
    from worldmodel.errors import in_one_line

    traced = bool(os.environ.get(TRACEBACK))
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        check_groups(name, sys.argv[1:])
        register(sys.argv[1:])
        sys.argv[1:] = opened(sys.argv[1:])
        with _stoppable(), unread(quiet=not traced):
            task = Task(name, body, code, traced)
            hydra.main(version_base="1.3", config_path=str(HOME / "configs"), config_name=name)(task)()
    except HydraException as error:
        refuse(explain(error, name, sys.argv[1:]))
    except OmegaConfBaseException as error:  # from a value that interpolates others
        refuse(f"{error.full_key}: {str(error).splitlines()[0]}" if error.full_key else in_one_line(error))
    except Exception as error:  # of Hydra, which creates the run folder, or of a sweep's member
        if traced or (end := foreseen(error)) is None:
            raise
        refuse(in_one_line(end), code_of(end))


@contextmanager
def _stoppable() -> Iterator[None]:
    """Have SIGTERM and SIGHUP (a closed terminal) end the program as Ctrl-C does, with everything it has started."""
    from robot.safety.stops import SIGNALS, Stopped, handled

    def stop(number: int, _frame) -> None:
        raise Stopped(number)

    if any(word.startswith("hydra/launcher=joblib") for word in sys.argv):
        from configs.sweep import members

        def stop_all(number: int, frame) -> None:
            end_all()
            stop(number, frame)

        with members() as end_all, handled(stop_all, SIGNALS):
            yield
    else:
        with handled(stop, (signal.SIGTERM, signal.SIGHUP)):
            yield


@dataclass(frozen=True)
class Task:
    """What Hydra calls with each config that it composes."""

    name: str
    body: Body
    code: Code = lambda result: 0
    traced: bool = False

    def __call__(self, config) -> None:
        """Run the command, or a member of a sweep in a process of its own."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        folder = Path(HydraConfig.get().runtime.output_dir)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            from configs.reporting import tell
            from configs.sweep import play

            tell(play(self.name, folder))
        else:
            self.perform(plain(config), folder)

    def perform(self, keys: dict, folder: Path) -> None:
        """Run the command with these keys and print its result. Raises SystemExit unless all went well."""
        import logging
        import warnings

        from configs.reporting import foreseen, tell
        from worldmodel import registry
        from worldmodel.errors import warning_line

        warnings.formatwarning = warning_line
        logging.getLogger("robot.safety.gated").disabled = True  # the command reports faults itself
        try:
            registry.load(keys.get("plugins", ()))
            result: dict | Exception = self.body(keys, folder)
        except Exception as error:
            if self.traced or (end := foreseen(error)) is None:
                raise
            result = end
        finally:
            _prune()
        tell(result)
        if isinstance(result, dict) and (number := self.code(result)):
            raise SystemExit(number)


def register(words: Iterable[str] = ()) -> None:
    """Give Hydra what the YAML files do not hold: the tasks by their names, and the resolvers that they use.

    `words`: arguments, of which those that look like the id of a Gymnasium environment become names of tasks, too.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from envs.settings import ARM_TASKS, NAMES, label

    OmegaConf.register_new_resolver("semagram.label", label, replace=True)
    OmegaConf.register_new_resolver("semagram.process", os.getpid, replace=True)
    store = ConfigStore.instance()
    for name in () if "task" in store.repo else NAMES:
        parts = ["keys/any@_here_", *["keys/so101@_here_"] * (name in ARM_TASKS), "_self_"]
        store.store(group="task", name=name, node={"defaults": parts, "name": name})
    for name in {name for word in words for name in GYMNASIUM.findall(word)}:
        store.store(group="task", name=name, node={"defaults": ["gym", "_self_"], "id": name})


def composed(name: str, arguments: list[str]) -> dict:
    """Return the resolved config of the command `name` with these arguments. Raises HydraException."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from configs.arguments import opened

    register()
    within = GlobalHydra.instance().is_initialized()  # called from within another command
    with nullcontext() if within else initialize_config_dir(str(HOME / "configs"), version_base="1.3"):
        return plain(compose(name, opened(arguments)))


def plain(config) -> dict:
    """Return a config as plain data, with the values that its interpolations refer to."""
    from omegaconf import OmegaConf

    keys = OmegaConf.to_container(config, resolve=True)
    assert isinstance(keys, dict)
    return keys


missing: list[Path] = []
"""The run folder and those of its parents that did not exist before the run, innermost first."""


def noting_missing():
    """Return the Hydra callback that fills `missing` before Hydra creates the run folder."""
    from hydra.experimental.callback import Callback
    from omegaconf.errors import OmegaConfBaseException

    class Noting(Callback):
        def on_run_start(self, config, **_) -> None:
            missing.clear()
            with suppress(OmegaConfBaseException):  # Hydra is about to raise it itself
                folder = Path(config.hydra.run.dir).absolute()
                missing.extend(path for path in (folder, *folder.parents) if not path.exists())

    return Noting()


def _prune() -> None:
    """Remove those of the `missing` folders that are empty, innermost first. Raises OSError."""
    for path in missing:
        if not path.exists() or any(path.iterdir()):
            return
        path.rmdir()


def _print(text: str) -> None:
    from configs.reporting import unread

    with unread():
        print(text, flush=True)


def _hiding(error: ImportError) -> str:
    """Describe the folder that hides one of Semagram's packages, if that is why an import failed."""
    package = (error.name or "").partition(".")[0]
    found = find_spec(package) if package in PACKAGES else None
    places = found and (found.submodule_search_locations or [found.origin or package])
    where = Path(next(iter(places))) if places else HOME / package
    if package not in PACKAGES or where == HOME / package:
        return ""
    return f"{where} hides Semagram's own package {package}; name it otherwise, or take its folder from PYTHONPATH"
