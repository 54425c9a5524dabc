"""The machine to compute on, and trained agents from checkpoints."""

import ctypes
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from configs.machine import check_threads
from configs.reporting import Ended
from configs.schema import MachineConfig
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.storage.checkpoint import PROGRESS, AgentSpec, find_checkpoint, load_model, read_spec
from policies.storage.folders import FolderError
from worldmodel import registry
from worldmodel.errors import UserError
from worldmodel.strict import ConfigError, build

NO_COMPILER = "no C++ compiler here (Debian, Ubuntu: apt-get install g++)"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt


@dataclass(frozen=True)
class Machine:
    """The device to compute on, and whether to compile."""

    device: torch.device
    compiled: bool


def prepare(config: MachineConfig) -> Machine:
    """Set the threads, resolve `auto`, and return the Machine. Raises ValueError for what is not here."""
    check_threads(config.threads)  # again, of a run that is resumed
    torch.set_num_threads(config.threads)
    keep_memory()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # else it warns at every start without CUDA
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= there:
        raise UserError(f"device={config.device}: CUDA devices here: {there}; device=cpu works")
    compiled = config.compile != "false" and compiler_works()
    if not compiled and config.compile == "true":
        raise UserError(f"compile=true: {NO_COMPILER}")
    if not compiled and config.compile == "auto":
        warnings.warn(f"{NO_COMPILER}: running at about half the speed", stacklevel=2)
    if compiled:
        mend(compiled_here())
    return Machine(torch.device(name), compiled)


def keep_memory() -> None:
    """Make glibc keep freed memory: shifting 1024 frames of 64 x 64 takes 8 ms with it, 24 ms without."""
    if sys.platform == "linux" and (tune := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        tune(M_MMAP_THRESHOLD, 1 << 25)
        tune(M_TRIM_THRESHOLD, 1 << 30)


def compiler_works() -> bool:
    """Return whether torch.compile finds a working C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


def compiled_here() -> Path:
    """Return the folder in which PyTorch keeps what it has compiled."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir())


def mend(cache: Path) -> None:
    """Remove the empty libraries that a machine which was cut off has left; the last minute's may be being written."""
    for library in cache.glob("*/*.so"):
        with suppress(FileNotFoundError):  # another process does the same
            if not (now := library.stat()).st_size and time.time() - now.st_mtime > 60:
                library.unlink()


@contextmanager
def compiler_faults(then: str) -> Iterator[None]:
    """Raise Ended if PyTorch cannot compile something in the block. `then`: how to go on."""
    try:
        yield
    except RuntimeError as error:
        compiler = sys.modules.get("torch._dynamo.exc")
        if compiler is None or not isinstance(error, compiler.BackendCompilerFailed):
            raise
        cause = error.inner_exception
        why = f"{type(cause).__name__}: {str(cause).partition('\n')[0]}"
        line = f"compiling failed: {why}; delete {compiled_here()} or set compile=false"
        raise Ended(f"{line}, then {then}") from error


@dataclass(frozen=True)
class Loaded:
    """An agent that does not explore, the task that it was trained on, and the checkpoint that it came from."""

    agent: Agent
    task: TaskConfig
    spec: AgentSpec
    path: Path


def load_agent(path: str | Path, seed: int = 0, device: str = "cpu", threads: int = 1, planned: bool = True) -> Loaded:
    """Load the agent of a checkpoint, or of a run's newest, not compiled. Sets PyTorch's threads.

    `planned`: act with the planner; otherwise with the policy alone. Raises FolderError, naming plugins that may be
    missing, and ValueError for a device or threads that this machine lacks.
    """
    machine = prepare(MachineConfig(device, threads, "false"))
    path = find_checkpoint(Path(path))
    with naming_plugins(path):
        spec = read_spec(path)
        task, model = task_of(spec), load_model(path, spec).to(machine.device)
    generator = torch.Generator().manual_seed(seed)
    agent = Agent.acting(model, spec.planner, spec.discount, spec.sentences, generator, planned)
    return Loaded(agent, task, spec, path)


@contextmanager
def naming_plugins(path: Path) -> Iterator[None]:
    """Where a checkpoint is refused (UserError), raise FolderError that names the plugins that may be missing."""
    try:
        yield
    except UserError as error:
        plugins = trained_with(path).get("plugins")
        given = plugins if isinstance(plugins, list) else []
        if missing := [each for each in given if registry.place(each) not in registry.loaded]:
            raise FolderError(f"{error}; it was trained with plugins=[{','.join(missing)}]") from error
        raise


def said(file: Path) -> dict:
    """Return what training wrote to a JSON file, unchecked; nothing where it does not say."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def trained_with(path: Path) -> dict:
    """Return the config that a checkpoint was trained with, unchecked; none where it does not say."""
    found = said(path / PROGRESS).get("config")
    return found if isinstance(found, dict) else {}


def renamed(task: TaskConfig, name: str) -> TaskConfig:
    """Return a task under another `name`, if given. Raises ConfigError if it is not the arm's, UserError."""
    if name and not task.is_arm:
        raise ConfigError(
            f"task={name}: the checkpoint is for {task.label}; only one for the SO-101 can be given another"
        )
    return replace(task, name=name) if name else task


def task_of(spec: AgentSpec) -> TaskConfig:
    """Return a checkpoint's task. Raises FolderError if it is invalid, or learned from recordings."""
    if not spec.task:
        raise FolderError("checkpoint=: it learned from recordings and has no task; lerobot-rollout runs it on a robot")
    try:
        return build(TaskConfig, spec.task, "task.")
    except ConfigError as error:
        raise FolderError(f"checkpoint=: {error}") from error
