"""Checkpoints: folders with everything needed to resume a run, of which acting needs only a part.

A checkpoint is also a LeRobot policy folder, which LeRobot's own loader can read.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from policies.storage import lerobot_files
from policies.storage.code_version import commit
from policies.storage.files import replacing, sync
from policies.storage.folders import MANIFEST, FolderError, check_folder, clear_aside, read_tensors, write_folder
from policies.storage.format import FORMAT, UNNUMBERED, check_format
from policies.tokens.curves import Curve
from policies.training.trainer import Trainer
from worldmodel.mistakes import Mistake
from worldmodel.model import WorldModel
from worldmodel.replay import Unfit
from worldmodel.senses import STATE_KEY
from worldmodel.senses import check as check_senses
from worldmodel.settings import ModelConfig, PlannerConfig
from worldmodel.strict import build

CONFIG, MODEL, LEARNER, REPLAY, LOOP = (
    "config.json",
    "model.safetensors",
    "learner.safetensors",
    "replay.safetensors",
    "loop.safetensors",
)
PROGRESS = "progress.json"
LAST = "last"


@dataclass(frozen=True)
class Identity:
    """What a checkpoint is for: the task, the senses (`worldmodel.senses`) with their shapes, and settings for acting.

    `discount`: per control step. `env_steps`: environment steps trained. `sentences`: those heard in training, if
    language is one of the senses.
    """

    task: dict
    senses: dict[str, tuple[int, ...]]
    action_size: int
    discount: float
    env_steps: int
    model: ModelConfig
    planner: PlannerConfig
    sentences: tuple[str, ...] = ()

    @property
    def state_size(self) -> int:
        """Size of the state vector; 0 if the state is not perceived."""
        return self.senses.get(STATE_KEY, (0,))[0]


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    return {name: version(name) for name in ("semagram", "torch", "numpy", "mujoco", "gymnasium")}


def made_by() -> dict[str, str]:
    """Return the `versions` entry of a checkpoint's manifest: the package versions and the commit of the code."""
    return versions() | {"commit": commit()}


def save_checkpoint(folder: Path, identity: Identity, trainer: Trainer, progress: dict, keep: int) -> Path:
    """Write `folder`/<env steps>, point the link `folder`/last at it, and keep only the newest `keep` checkpoints.

    The new checkpoint always counts among those kept. `progress` is plain data of the caller's own, which
    `read_progress` returns.

    Returns the new checkpoint's path. Raises FloatingPointError if a weight is not finite (nothing is written, and the
    last good checkpoint stays), or OSError.
    """
    learner = trainer.learner
    for name, value in chain(learner.model.state_dict().items(), learner.acting.state_dict().items()):
        if not bool(torch.isfinite(value).all()):
            raise FloatingPointError(f"weight {name} is not finite; the last good checkpoint was kept")
    path = folder / f"{identity.env_steps:09d}"
    sizes = identity.senses, identity.action_size
    settings = {"type": "semagram", "format": FORMAT} | lerobot_files.settings(*sizes) | asdict(identity)
    files: dict[str, bytes | Mapping[str, Tensor]] = {
        CONFIG: json.dumps(settings, indent=1).encode(),
        MODEL: learner.acting.state_dict(),
        LEARNER: learner.state_dict(),
        LOOP: trainer.state_dict(),
        REPLAY: trainer.replay.state_dict(),
        PROGRESS: json.dumps(progress).encode(),
        **lerobot_files.processors(*sizes),
    }
    write_folder(path, files, made_by())
    with replacing(folder / LAST) as link:
        link.symlink_to(path.name)
    sync(folder)
    others = [p for p in saved_in(folder) if p != path]
    for old in others[: max(0, len(others) + 1 - keep)]:
        shutil.rmtree(old)
    clear_aside(folder, f"[0-9]+|{LAST}")
    return path


def saved_in(folder: Path) -> list[Path]:
    """Return the checkpoints in a run's `checkpoints` folder, oldest first; none if there is no such folder."""
    return sorted(p for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def newest(folder: Path) -> Path:
    """Return the newest checkpoint in a run's `checkpoints` folder. Raises FolderError if there is none."""
    if not (found := saved_in(folder)):
        raise FolderError(f"{folder}: holds no checkpoint")
    return found[-1]


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint at `path`, or the newest one if `path` is a run's folder or its `checkpoints` folder.

    Raises FolderError if there is none.
    """
    if not path.is_dir():
        raise FolderError(f"checkpoint={path}: no such folder")
    if (path / MANIFEST).exists():
        return path.resolve() if path.name == LAST else path
    for folder in (path / "checkpoints", path):
        if found := saved_in(folder):
            return found[-1]
    raise FolderError(f"checkpoint={path}: holds no checkpoint")


def read_identity(path: Path) -> Identity:
    """Read a checkpoint's identity. Raises FolderError naming what is missing, damaged or of another format."""
    return _identity(path, _settings(path, MODEL))


def read_unsigned(path: Path) -> Identity:
    """Read as `read_identity`, but allow a missing manifest: LeRobot downloads only config.json and the weights."""
    signed = (path / MANIFEST).exists()
    return read_identity(path) if signed else _identity(path, _own_settings(path, ""))


def _identity(path: Path, saved: dict) -> Identity:
    own = {field.name: saved[field.name] for field in fields(Identity) if field.name in saved}  # the rest is LeRobot's
    try:
        identity = build(Identity, own, whole=True)
        check_senses(identity.senses)
        if identity.action_size < 1:
            raise Mistake(f"action_size={identity.action_size}: at least 1")
    except Mistake as error:
        raise FolderError(f"{path / CONFIG}: {error}") from error
    return identity


def _settings(path: Path, *needed: str) -> dict:
    """Read a checkpoint's config.json, after verifying it and the other files `needed` against the manifest.

    Raises FolderError if one is missing or damaged, or the checkpoint has another format.
    """
    made = check_folder(path, (CONFIG, *needed)).get("versions")
    return _own_settings(path, made.get("commit", "") if isinstance(made, dict) else "")


def _own_settings(path: Path, made: str) -> dict:
    """Read a checkpoint's config.json; `made`: the commit that wrote it, for the error message.

    Raises FolderError if it is not JSON, not Semagram's, or of another format.
    """
    file = path / CONFIG
    try:
        saved = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:  # not JSON, or not even text
        raise FolderError(f"{file}: not JSON ({error})") from error
    if not isinstance(saved, dict) or saved.get("type") != "semagram":
        raise FolderError(f"{file}: not a Semagram checkpoint")
    check_format(path, saved.get("format", UNNUMBERED), made)
    return saved


def load_model(path: Path, identity: Identity) -> WorldModel:
    """Load a checkpoint's model for acting. Raises FolderError if weights do not fit `identity` or are not finite."""
    curve = Curve.of_token(identity.model.token, identity.action_size)
    model = WorldModel(identity.senses, curve.size, identity.model)
    load_into(model, path)
    return model


def load_into(model: WorldModel, path: Path) -> None:
    """Load a checkpoint's weights into a model in place. Raises FolderError if they do not fit or are not finite."""
    saved = read_tensors(path / MODEL)
    for name, value in saved.items():
        if not bool(torch.isfinite(value).all()):
            raise FolderError(f"{path / MODEL}: weight {name} is not finite")
    _fit(model.state_dict(), saved, path / MODEL)
    model.load_state_dict(saved)


def _fit(wanted: dict[str, Tensor], saved: dict[str, Tensor], path: Path) -> None:
    for name, value in wanted.items():
        if name not in saved or saved[name].shape != value.shape:
            got = tuple(saved[name].shape) if name in saved else "missing"
            raise FolderError(f"{path}: {name} is {got}, {tuple(value.shape)} is needed")
    for name in saved.keys() - wanted.keys():
        raise FolderError(f"{path}: {name} is {tuple(saved[name].shape)}, none is needed")


def read_progress(path: Path) -> dict:
    """Return the `progress` that the caller of `save_checkpoint` passed. Raises FolderError."""
    _settings(path, PROGRESS)
    return json.loads((path / PROGRESS).read_text())


def load_trainer(path: Path, trainer: Trainer, warn: Callable[[str], None]) -> None:
    """Restore a trainer to its state when the checkpoint was saved; `warn`: as for `Trainer.load_state_dict`.

    Raises FolderError if the checkpoint is damaged or does not fit this run.
    """
    _settings(path, MODEL, LEARNER, LOOP, REPLAY, PROGRESS)
    load_into(trainer.learner.acting, path)
    saved = read_tensors(path / LEARNER)
    _fit(trainer.learner.state_dict(), saved, path / LEARNER)
    trainer.learner.load_state_dict(saved)
    try:
        trainer.replay.load_state_dict(read_tensors(path / REPLAY))
    except Unfit as error:
        raise FolderError(f"{path}: does not fit this run ({error})") from error
    trainer.load_state_dict(read_tensors(path / LOOP), warn)
