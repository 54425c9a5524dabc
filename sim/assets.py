"""Locate files of the so101-nexus package without importing it, which takes seconds."""

import importlib.util
from pathlib import Path


def asset(folder: str, name: str) -> Path:
    """Return the path of file `name` in `folder` of the package's assets. Raises ImportError without the package."""
    package = importlib.util.find_spec("so101_nexus")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("so101-nexus is not installed", name="so101_nexus")
    return Path(package.submodule_search_locations[0]) / "assets" / folder / name
