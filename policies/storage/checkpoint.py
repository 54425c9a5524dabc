"""Checkpoints: folders with everything needed to resume a run, of which acting needs only a part.

A checkpoint is also a LeRobot policy folder, which LeRobot's own loader can read: its keys of config.json and two files
are plain data, written here without importing LeRobot, which takes seconds.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from policies.storage import folders
from policies.storage.folders import MANIFEST, FolderError, aside_of, check_folder
from policies.tokens.curves import Curve
from worldmodel.errors import UserError
from worldmodel.model import WorldModel
from worldmodel.replay import Replay, ReplayMismatch
from worldmodel.senses import STATE_KEY, Shapes, is_image
from worldmodel.senses import check as check_senses
from worldmodel.settings import ModelConfig, PlannerConfig
from worldmodel.strict import build

CONFIG, PROGRESS = "config.json", "progress.json"
PARTS = ("model", "learner", "replay", "loop")  # the groups of a training's state, each a file
MODEL, REPLAY = "model.safetensors", "replay.safetensors"
LAST = "last"
UNCHANGED = {"STATE": "IDENTITY", "VISUAL": "IDENTITY", "ACTION": "IDENTITY"}
"""How LeRobot normalises each type of feature."""
Nested = Mapping[str, Any]
"""Tensors by name, and groups of them by name, to any depth; a file joins the names by slashes."""


@dataclass(frozen=True)
class AgentSpec:
    """What a checkpoint is for: the task, the senses (`worldmodel.senses`) with their shapes, and settings for acting.

    `discount`: per control step. `env_steps`: environment steps trained. `sentences`: those heard in training, if
    language is one of the senses. `quantities`: the units of the named quantities recorded with each step, by name.
    """

    task: dict
    senses: dict[str, tuple[int, ...]]
    action_size: int
    discount: float
    env_steps: int
    model: ModelConfig
    planner: PlannerConfig
    sentences: tuple[str, ...] = ()
    quantities: dict[str, str] = field(default_factory=dict)

    @property
    def state_size(self) -> int:
        """Size of the state vector; 0 if the state is not perceived."""
        return self.senses.get(STATE_KEY, (0,))[0]


def save_checkpoint(folder: Path, spec: AgentSpec, state: Mapping[str, Nested], progress: dict, keep: int) -> Path:
    """Write `folder`/<env steps>, point the link `folder`/last at it, and keep only the newest `keep` checkpoints.

    `state`: what `Trainer.state_dict` returns, each group a file of its own. The new checkpoint always counts among
    those kept. `progress` is plain data of the caller's own, which `check_resumable` returns.

    Returns the new checkpoint's path. Raises FloatingPointError if a weight is not finite (nothing is written, and the
    last good checkpoint stays), or OSError.
    """
    for name, value in chain(state["model"].items(), state["learner"].items()):
        if not bool(torch.isfinite(value).all()):
            raise FloatingPointError(f"weight {name} is not finite; the last good checkpoint was kept")
    path = folder / f"{spec.env_steps:09d}"
    lerobot = lerobot_settings(spec.senses, spec.action_size)
    files: dict[str, bytes | Callable[[Path], None]] = {
        CONFIG: json.dumps({"type": "semagram", "format": folders.FORMAT} | lerobot | asdict(spec), indent=1).encode(),
        PROGRESS: json.dumps(progress).encode(),
        **{f"{name}.safetensors": partial(write_tensors, tensors=group) for name, group in state.items()},
        **lerobot_processors(lerobot["input_features"], lerobot["output_features"]),
    }
    folders.write_folder(path, files, folders.made_by())
    with aside_of(folder / LAST) as link:
        link.symlink_to(path.name)
        folders.put(link, folder / LAST)
    others = [p for p in saved_in(folder) if p != path]
    for old in others[: max(0, len(others) + 1 - keep)]:
        shutil.rmtree(old)
    folders.clear_aside(folder, f"[0-9]+|{LAST}")
    return path


def lerobot_settings(senses: Shapes, action_size: int) -> dict:
    """Return LeRobot's keys of config.json; frames channels-first, nothing normalised, language being its `task`."""
    inputs: dict = {STATE_KEY: {"type": "STATE", "shape": list(senses[STATE_KEY])}} if STATE_KEY in senses else {}
    inputs |= {key: {"type": "VISUAL", "shape": [s[2], s[0], s[1]]} for key, s in senses.items() if is_image(key)}
    return {
        "input_features": inputs,
        "output_features": {"action": {"type": "ACTION", "shape": [action_size]}},
        "normalization_mapping": UNCHANGED,
        "planned": True,
    }


def lerobot_processors(inputs: dict, action: dict) -> dict[str, bytes]:
    """Return policy_preprocessor.json and policy_postprocessor.json, whose steps LeRobot overrides by name."""
    rest, device = {"eps": 1e-8, "norm_map": UNCHANGED}, {"device": "cpu", "float_dtype": None}
    processors = {
        "policy_preprocessor": {
            "rename_observations_processor": {"rename_map": {}},
            "to_batch_processor": {},
            "device_processor": device,
            "normalizer_processor": {"features": inputs | action, **rest},
        },
        "policy_postprocessor": {"unnormalizer_processor": {"features": action, **rest}, "device_processor": device},
    }
    files = {}
    for name, steps in processors.items():
        listed = [{"registry_name": step, "config": config} for step, config in steps.items()]
        files[f"{name}.json"] = json.dumps({"name": name, "steps": listed}, indent=2).encode()
    return files


def saved_in(folder: Path) -> list[Path]:
    """Return the checkpoints in a run's `checkpoints` folder, oldest first; none if there is no such folder."""
    return sorted(p for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def newest(folder: Path) -> Path:
    """Return the newest checkpoint in a run's `checkpoints` folder. Raises FolderError if there is none."""
    if not (found := saved_in(folder)):
        raise FolderError(f"{folder}: holds no checkpoint")
    return found[-1]


def find_checkpoint(path: Path, key: str = "checkpoint") -> Path:
    """Return the checkpoint at `path`, or a run's newest. Raises FolderError, which names the command's `key`."""
    if not path.is_dir():
        raise FolderError(f"{key}={path}: no such folder")
    if (path / MANIFEST).exists():
        return path.resolve() if path.name == LAST else path
    for folder in (path / "checkpoints", path):
        if found := saved_in(folder):
            return found[-1]
    raise FolderError(f"{key}={path}: holds no checkpoint")


def read_spec(path: Path, downloaded: bool = False) -> AgentSpec:
    """Read a checkpoint's spec; if `downloaded` by LeRobot, perhaps without a manifest. Raises FolderError."""
    signed = not downloaded or (path / MANIFEST).exists()
    saved = _settings(path, check_folder(path, (CONFIG, MODEL)) if signed else {})
    own = {each.name: saved[each.name] for each in fields(AgentSpec) if each.name in saved}  # the rest is LeRobot's
    try:
        spec = build(AgentSpec, own)
        check_senses(spec.senses)
        if spec.action_size < 1:
            raise UserError(f"action_size={spec.action_size}: at least 1")
    except UserError as error:
        raise FolderError(f"{path / CONFIG}: {error}") from error
    return spec


def _settings(path: Path, made: dict) -> dict:
    """Read a checkpoint's config.json; `made`: its manifest's versions. Raises FolderError if it is none of ours."""
    file = path / CONFIG
    try:
        saved = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:  # not JSON, or not even text
        raise FolderError(f"{file}: not JSON ({error})") from error
    if not isinstance(saved, dict) or saved.get("type") != "semagram":
        raise FolderError(f"{file}: not a Semagram checkpoint")
    folders.check_format(path, saved.get("format", 0), made.get("commit", ""))
    return saved


def reward_free(task: Mapping) -> bool:
    """Return whether an agent trained on a task, by its keys, learned from novelty alone."""
    return task.get("reward") == "none" and not task.get("guidance")


def load_model(path: Path, spec: AgentSpec) -> WorldModel:
    """Load a checkpoint's model for acting. Raises FolderError if weights do not fit `spec` or are not finite."""
    curve = Curve.of_token(spec.model.token, spec.action_size)
    model = WorldModel(spec.senses, curve.size, spec.model)
    model.explores = reward_free(spec.task)
    load_into(model, path)
    return model


def load_into(model: WorldModel, path: Path) -> None:
    """Load a checkpoint's weights into a model in place. Raises FolderError if they do not fit or are not finite."""
    model.load_state_dict(_fitting(model.state_dict(), path / MODEL))


def _fitting(wanted: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Read tensors of the names and shapes of `wanted`. Raises FolderError if they differ or are not finite."""
    saved = read_tensors(path)
    for name, value in wanted.items():
        if name not in saved or saved[name].shape != value.shape:
            got = tuple(saved[name].shape) if name in saved else "missing"
            raise FolderError(f"{path}: {name} is {got}, {tuple(value.shape)} is needed")
        if not bool(torch.isfinite(saved[name]).all()):
            raise FolderError(f"{path}: weight {name} is not finite")
    for name in saved.keys() - wanted.keys():
        raise FolderError(f"{path}: {name} is {tuple(saved[name].shape)}, none is needed")
    return saved


def read_replay(path: Path, senses: Shapes, frame_lags: Sequence[int]) -> Replay:
    """Read what a checkpoint's agent remembers. Raises FolderError if it is missing, damaged or of other senses."""
    check_folder(path, (REPLAY,))
    try:
        return Replay.read(read_tensors(path / REPLAY), senses, frame_lags)
    except ReplayMismatch as error:
        raise FolderError(f"{path / REPLAY}: not what this checkpoint's model saw ({error})") from error


def check_resumable(path: Path) -> dict:
    """Verify all that a resume needs of a checkpoint, and return the `progress` saved with it. Raises FolderError."""
    _settings(path, check_folder(path, (CONFIG, PROGRESS, *(f"{name}.safetensors" for name in PARTS))))
    return json.loads((path / PROGRESS).read_text())


def restore(path: Path, training, warn: Callable[[str], None]) -> None:
    """Restore the state that `save_checkpoint` was given to a `Trainer`. Raises FolderError if it does not fit."""
    like = training.state_dict()
    state: dict[str, Nested] = {name: read_tensors(path / f"{name}.safetensors") for name in ("replay", "loop")}
    state |= {name: _fitting(like[name], path / f"{name}.safetensors") for name in ("model", "learner")}
    try:
        training.load_state_dict(state, warn)
    except ReplayMismatch as error:
        raise FolderError(f"{path}: does not fit this run ({error})") from error


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
    """Tensors and groups of them by name, from a file; missing ones raise FolderError, as it is at fault."""

    def __init__(self, path: Path, within: str = ""):
        super().__init__()
        self.path, self.within = path, within

    def __missing__(self, name: str) -> Tensor:
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
