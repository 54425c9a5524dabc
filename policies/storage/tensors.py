"""Nested groups of tensors as safetensors files: the names of a group and of what is in it are joined by a slash."""

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from policies.storage.folders import FolderError

Nested = Mapping[str, Any]
"""Tensors by name, and groups of them by name, to any depth."""


def flat(nested: Nested, within: str = "") -> dict[str, Tensor]:
    """Return all tensors by their path in the nest; empty groups are lost."""
    result = {}
    for name, value in nested.items():
        if isinstance(value, Tensor):
            result[within + name] = value.detach().cpu().contiguous()
        else:
            result |= flat(value, f"{within}{name}/")
    return result


def tensor_bytes(tensors: Nested) -> bytes:
    """Serialise tensors in the safetensors format."""
    return save(flat(tensors))


def write_tensors(path: Path, tensors: Nested) -> None:
    """Write tensors to a safetensors file without copying them in memory. Raises OSError."""
    path.touch()
    mode = path.stat().st_mode  # safetensors creates files that only the owner can read
    try:
        save_file(flat(tensors), path)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number) if found else str(error), str(path)) from error
    path.chmod(mode)


class Tensors(dict):
    """Tensors and groups of them by name, from the file at `path`, where they are in the group `within`.

    Looking up what is missing raises FolderError, naming the file and the tensor, since the file is at fault: a
    KeyError would mean a bug in the code.
    """

    def __init__(self, path: Path, within: str = ""):
        super().__init__()
        self.path, self.within = path, within

    def __missing__(self, name: str) -> Tensor:
        """Raise FolderError: the file has no such tensor."""
        raise FolderError(f"{self.path}: {self.within}{name} is missing")


def read_tensors(path: Path) -> Tensors:
    """Read the tensors of a safetensors file, nested as they were when written. Raises FolderError."""
    try:
        saved = load_file(path)
    except (SafetensorError, OSError) as error:
        raise FolderError(f"{path}: not readable as safetensors ({error})") from error
    whole = Tensors(path)
    for name, tensor in saved.items():
        group, (*groups, last) = whole, name.split("/")
        for each in groups:
            group = group.setdefault(each, Tensors(path, f"{group.within}{each}/"))
        group[last] = tensor
    return whole
