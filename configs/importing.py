"""What can go wrong while a command is still being imported. Light, since a command begins with it."""

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
    """Ctrl-C, and a folder that hides one of Semagram's packages, end the program as `configs.command.run` ends it."""
    try:
        yield
    except KeyboardInterrupt:
        print("semagram: interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        found = find_spec(package) if package in PACKAGES else None
        where = Path(next(iter(found.submodule_search_locations or [found.origin]))) if found else HOME / package
        if package not in PACKAGES or where == HOME / package:
            raise
        print(
            f"semagram: {where} hides Semagram's own package {package}; name it otherwise, or take its folder from "
            "PYTHONPATH",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
