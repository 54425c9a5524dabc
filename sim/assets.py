"""Files of the so101-nexus package, found without importing it, which takes seconds."""

import importlib.util
from pathlib import Path


def asset(folder: str, name: str) -> Path:
    """A file of one of its folders of assets."""
    package = importlib.util.find_spec("so101_nexus")
    return Path(package.submodule_search_locations[0]) / "assets" / folder / name
