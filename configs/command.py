"""A command: its help and version, its config as Hydra composes it, its work, its exit code."""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

GYMNASIUM = re.compile(r"(?:(?<=^)|(?<=^task=)|(?<=,))(?:[\w.]+:)?[A-Za-z]\w*-v\d+(?=,|$)")
"""Ids of Gymnasium environments, in the value of an argument `task=`, or alone."""
HOME = Path(__file__).parents[1]
SWEEPS = ("-m", "--multirun")
PACKAGES = {"configs", "envs", "policies", "robot", "sim", "worldmodel"}


@dataclass(frozen=True)
class Command:
    """A command, whose keys stand in configs/`name`.yaml. Call it to run it.

    `work`: the function (`module:name`) that does it, given the config and the run's folder, and returns the result;
    imported once the keys are checked, since PyTorch takes seconds. `keys`: the dataclass of the config, likewise; if
    empty, the work gets the plain keys and checks them itself. `code`: the exit code of a result. `words`: changes the
    arguments before Hydra reads them.
    """

    name: str
    work: str
    keys: str = ""
    code: Callable[[dict], int] = lambda result: 0
    words: Callable[[list[str]], list[str]] = list

    def __call__(self) -> None:
        """Run it with the arguments in `sys.argv`, and print its result as one JSON line on stdout.

        A sweep (`-m`) runs each of its members in a process of its own (`configs.sweep`). These end the program with
        one line on stderr and an exit code:

        - 2: a mistake of the user's (UserError, or an OSError about a path or address they gave), or a non-finite
          number;
        - 1: a condition that may pass (a full disk, a port that has gone, too little memory);
        - `Ended.code`: Ended; `code(result)`, if it is not 0, without a line;
        - 128 + the signal's number: Ctrl-C, or another stop signal (`robot.safety.stops`).

        Any other exception is a bug: a traceback, and exit code 1. Folders made for the run that are still empty at its
        end are removed.
        """
        words = self.words(sys.argv[1:])
        # Hydra reads options only where they stand together
        words = sys.argv[1:] = [*(w for w in words if w in SWEEPS), *(w for w in words if w not in SWEEPS)]
        try:
            if {"-h", "--help"} & set(words):
                from configs.arguments import page
                from configs.reporting import show

                show(page(self.name))
            elif "--version" in words:
                from importlib.metadata import version

                from configs.reporting import show
                from policies.storage.folders import commit

                show(f"semagram {version('semagram')}, code {commit()}")
            else:
                self._compose(words)
        except KeyboardInterrupt as stop:
            print(f"semagram: {' '.join(str(stop).split()) or 'interrupted'}", file=sys.stderr)
            raise SystemExit(128 + getattr(stop, "number", signal.SIGINT)) from None
        except ImportError as error:
            if not (hidden := _hiding(error)):
                raise
            print(f"semagram: {hidden}", file=sys.stderr)
            raise SystemExit(2) from None

    def _compose(self, words: list[str]) -> None:
        """Have Hydra compose the config, or those of a sweep, and run each."""
        import hydra
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError

        from configs.arguments import check_groups, explain, opened
        from configs.reporting import TRACEBACK, fail, refuse, unread
        from configs.sweep import stoppable

        os.environ["HYDRA_FULL_ERROR"] = "1"
        try:
            check_groups(self.name, words)
            register(words)
            sys.argv[1:] = opened(words)
            with stoppable(words), unread(quiet=not os.environ.get(TRACEBACK)):
                hydra.main(version_base="1.3", config_path=str(HOME / "configs"), config_name=self.name)(self._begin)()
        except (HydraException, OmegaConfBaseException, YAMLError) as error:
            refuse(explain(error, self.name))
        except Exception as error:  # of Hydra, which creates the run folder, or of a sweep's member
            fail(error)

    def _begin(self, config) -> float | None:
        """Run it in this process or, as a member of a sweep, in one of its own, and return a member's mean return."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        folder = Path(HydraConfig.get().runtime.output_dir)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            from configs.reporting import tell
            from configs.sweep import play

            tell(result := play(self.name, folder, config.get("device")))
            return result.get("return_mean")
        self.perform(plain(config), folder)
        return None

    def perform(self, keys: dict, folder: Path) -> None:
        """Do the work with these keys and print its result. Raises SystemExit unless all went well."""
        import logging
        import warnings

        from configs.reporting import fail, tell
        from worldmodel import registry
        from worldmodel.errors import warning_line

        warnings.formatwarning = warning_line
        logging.getLogger("robot.safety.gated").disabled = True  # the command reports faults itself
        try:
            registry.load(keys.get("plugins", ()))
            config = checked(resolve_name(self.keys), keys) if self.keys else keys
            result = resolve_name(self.work)(config, folder)
        except Exception as error:
            fail(error)
        finally:
            _prune()
        tell(result)
        if number := self.code(result):
            raise SystemExit(number)


def checked[T](cls: type[T], keys: dict) -> T:
    """Build a command's config. Raises ConfigError; UserError or ConnectionError for what it names and is not there."""
    from configs.machine import check_device, check_threads
    from worldmodel.errors import UserError
    from worldmodel.strict import build

    config = build(cls, keys)
    if "threads" in keys:
        check_threads(keys["threads"])
    check_device(keys.get("device"))
    checkpoint = keys.get("checkpoint")
    if isinstance(checkpoint, str) and checkpoint and not Path(checkpoint).is_dir():
        there = "a file; the folder of a run or checkpoint" if Path(checkpoint).exists() else "no such folder"
        raise UserError(f"checkpoint={checkpoint}: {there}")
    if "robot" in keys:
        from robot.settings import REAL, port_of_twin

        if keys["port_file"]:
            port_of_twin(Path(keys["port_file"]))
        port = Path(keys["port"] if keys["robot"] == REAL else "")
        if port.is_absolute() and not port.exists():  # on other systems ports are not files
            raise ConnectionError(
                f"port={port}: no such device; is the arm plugged in? lerobot-find-port says which port it has"
            )
    return config


def register(words: Iterable[str] = ()) -> None:
    """Give Hydra the tasks by their names, with the Gymnasium ids among the arguments `words`, and our resolvers."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from envs.settings import ARM_TASKS, NAMES, folder_name, label

    OmegaConf.register_new_resolver("semagram.label", lambda *task: folder_name(label(*task)), replace=True)
    OmegaConf.register_new_resolver("semagram.run", run_name, replace=True)
    OmegaConf.register_new_resolver("semagram.process", os.getpid, replace=True)
    store = ConfigStore.instance()
    for name in () if "task" in store.repo else NAMES:
        parts = ["keys/any@_here_", *["keys/so101@_here_"] * (name in ARM_TASKS), "_self_"]
        store.store(group="task", name=name, node={"defaults": parts, "name": name})
    for name in {name for word in words for name in GYMNASIUM.findall(word)}:
        store.store(group="task", name=name, node={"defaults": ["gym", "_self_"], "id": name})


def run_name(task: str, gym_id: str, names: object, data: object) -> str:
    """Return what a run's folder is named after: its task, or the recordings that are learned from without one."""
    from configs.schema import DEFAULT_TASK
    from envs.settings import folder_name, label

    first = data if isinstance(data, str) else next(iter(data), "") if isinstance(data, Iterable) else ""
    return Path(first).name if first and task == DEFAULT_TASK else folder_name(label(task, gym_id, names))


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


def _hiding(error: ImportError) -> str:
    """Describe the folder that hides one of Semagram's packages, if that is why an import failed."""
    package = (error.name or "").partition(".")[0]
    found = find_spec(package) if package in PACKAGES else None
    places = found and (found.submodule_search_locations or [found.origin or package])
    where = Path(next(iter(places))) if places else HOME / package
    if package not in PACKAGES or where == HOME / package:
        return ""
    return f"{where} hides Semagram's own package {package}; name it otherwise, or take its folder from PYTHONPATH"
