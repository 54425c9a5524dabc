"""The life of a command: --help and --version, composing the config with Hydra, the work, the exit code."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from configs.arguments import check_arguments, explain
from configs.reporting import SIGNALLED, code_of, foreseen, refuse, tell, unread
from configs.store import plain, register
from envs.settings import label
from robot.safety.faults import in_one_line
from robot.safety.signals import Stopped, handled
from worldmodel.mistakes import warning_line

TRACEBACK = "SEMAGRAM_TRACEBACK"
"""Environment variable: if set, any error that ends a command is shown with its traceback."""


def run(name: str, help_text: str, body: Callable[[dict, Path], dict]) -> list[dict]:
    """Compose the config `name`, call `body(keys, run_folder)` and print its result as one JSON line on stdout.

    These end the program with one line on stderr and an exit code:

    - 2: a mistake of the user's (Mistake, or an OSError about a path or address they gave), or a non-finite number;
    - 1: a condition that may pass (a full disk, a port that has gone, too little memory);
    - `Ended.code`: Ended;
    - 128 + the signal's number: Ctrl-C, or another stop signal (`robot.safety.signals`).

    Any other exception is a bug: a traceback, and exit code 1. Folders made for the run that are still empty at its
    end are removed. Returns what was printed, as a list of at most one result; empty for --help and --version.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        with unread():
            print(help_text, flush=True)
        return []
    if "--version" in sys.argv[1:]:
        from policies.storage.code_version import commit

        with unread():
            print(f"semagram {version('semagram')}, code {commit()}", flush=True)
        return []
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from configs.empty_folders import prune

    os.environ["HYDRA_FULL_ERROR"] = "1"
    traced = bool(os.environ.get(TRACEBACK))
    warnings.formatwarning = warning_line
    OmegaConf.register_new_resolver("semagram.label", label, replace=True)
    OmegaConf.register_new_resolver("semagram.process", os.getpid, replace=True)
    register()
    check_arguments(name)
    outcome: list[dict | Exception] = []

    def task(config: DictConfig) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            outcome.append(body(plain(config), folder))
        except Exception as error:
            if traced or (end := foreseen(error)) is None:
                raise
            outcome.append(end)
        finally:
            prune()

    logging.getLogger("robot.safety.gated").disabled = True  # the command reports faults itself
    try:
        # SIGTERM and SIGHUP (a closed terminal) end the program as Ctrl-C does, with everything it has started.
        with (
            handled(_stop, (signal.SIGTERM, signal.SIGHUP)),
            nullcontext() if traced else unread(),
        ):
            hydra.main(version_base="1.3", config_path=None, config_name=name)(task)()
    except HydraException as error:
        refuse(explain(error, name, sys.argv[1:]))
    except OmegaConfBaseException as error:  # from a value that interpolates others
        refuse(f"{error.full_key}: {str(error).splitlines()[0]}" if error.full_key else in_one_line(error))
    except OSError as error:  # from Hydra, which creates the run folder
        if traced:
            raise
        refuse(in_one_line(error), code_of(error))
    except KeyboardInterrupt as stop:
        line = in_one_line(stop) if str(stop) else "interrupted"
        refuse(line, SIGNALLED + getattr(stop, "number", signal.SIGINT))
    for end in outcome:
        tell(end)
    return [end for end in outcome if not isinstance(end, Exception)]


def _stop(number: int, _frame) -> None:
    raise Stopped(number)
