"""How a command runs: help, its version, Hydra, its work, its end."""

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
from configs.store import register
from envs.settings import label
from robot.safety.faults import in_one_line
from robot.safety.signals import Stopped, handled
from worldmodel.mistakes import warning_line

TRACEBACK = "SEMAGRAM_TRACEBACK"
"""An environment variable: where it is set, whatever ends a command is told with its traceback."""


def run(name: str, help_text: str, body: Callable[[dict, Path], dict]) -> list[dict]:
    """Compose the config `name`, call `body(keys and values, run folder)`, print its result as the last line.

    A mistake of the user's (Mistake, or OSError of what they gave), or a number that is not finite, ends the program
    with one line on stderr and exit code 2; what may pass (a full disk, a port that is gone, too little memory) with
    one line and 1; Ended with its own; Ctrl-C, or another signal that was taken for it (`robot.safety.signals`), with
    128 + its number.
    Anything else that is raised is a defect: a traceback, and 1. A folder that is still empty then is removed. Returns
    what was printed.
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
            outcome.append(body(OmegaConf.to_container(config, resolve=True), folder))
        except Exception as error:
            if traced or (end := foreseen(error)) is None:
                raise
            outcome.append(end)
        finally:
            prune()

    logging.getLogger("robot.safety.gated").disabled = True  # of a fault the command tells itself
    try:
        # SIGTERM and SIGHUP (the terminal closed) end the program as Ctrl-C does, with all that it began.
        with (
            handled(_stop, (signal.SIGTERM, signal.SIGHUP)),
            nullcontext() if traced else unread(),
        ):
            hydra.main(version_base="1.3", config_path=None, config_name=name)(task)()
    except HydraException as error:
        refuse(explain(error, name))
    except OmegaConfBaseException as error:  # of a value that refers to others
        refuse(f"{error.full_key}: {str(error).splitlines()[0]}" if error.full_key else in_one_line(error))
    except OSError as error:  # Hydra makes the run folder
        if traced:
            raise
        refuse(in_one_line(error), code_of(error))
    except KeyboardInterrupt as stop:
        line = in_one_line(stop) if str(stop) else "interrupted"
        refuse(line, SIGNALLED + getattr(stop, "number", signal.SIGINT))
    for end in outcome:
        tell(end)
    return outcome


def _stop(number: int, _frame) -> None:
    raise Stopped(number)
