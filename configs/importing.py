"""Errors raised while a command is still being imported. Kept light, since every command imports it first."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).parent.parent
PACKAGES = {"configs", "envs", "policies", "robot", "sim", "worldmodel"}


@contextmanager
def importing() -> Iterator[None]:
    """End the program with one line on stderr, as `configs.command.run` does, if importing is interrupted or fails.

    Ctrl-C exits with 128 + SIGINT; a folder that shadows one of Semagram's packages, with 2. Other errors propagate.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("semagram: interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        found = find_spec(package) if package in PACKAGES else None
        places = found and (found.submodule_search_locations or [found.origin or package])
        where = Path(next(iter(places))) if places else HOME / package
        if package not in PACKAGES or where == HOME / package:
            raise
        print(
            f"semagram: {where} hides Semagram's own package {package}; name it otherwise, or take its folder from "
            "PYTHONPATH",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
