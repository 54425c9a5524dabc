"""Load trained agents from checkpoints."""

from dataclasses import dataclass
from pathlib import Path

import torch

from configs.runs.assembly import prepare
from configs.schema import MachineConfig
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.storage.checkpoint import AgentSpec, find_checkpoint, load_model, read_spec
from policies.storage.folders import FolderError
from worldmodel.settings import PlannerConfig
from worldmodel.strict import ConfigError, build


@dataclass(frozen=True)
class Loaded:
    """An agent that does not explore, the task that it was trained on, and the checkpoint that it came from."""

    agent: Agent
    task: TaskConfig
    spec: AgentSpec
    path: Path

    def another(self, planned: bool, seed: int, planner: PlannerConfig | None = None, compiled: bool = False) -> Agent:
        """Return another agent of the same model. `planner`: replaces the checkpoint's planner settings."""
        spec, generator = self.spec, torch.Generator().manual_seed(seed)
        settings = planner or spec.planner
        return Agent.acting(self.agent.model, settings, spec.discount, spec.sentences, generator, planned, compiled)


def load_agent(path: str | Path, seed: int = 0, device: str = "cpu", threads: int = 1, planned: bool = True) -> Loaded:
    """Load the agent of a checkpoint, or of a run's newest, not compiled. Sets PyTorch's threads.

    `planned`: act with the planner; otherwise with the policy alone. Raises FolderError as `find_checkpoint`,
    `read_spec`, `load_model` and `task_of` do, and ValueError for a device or threads that this machine lacks.
    """
    machine = prepare(MachineConfig(device, threads, "false"))
    path = find_checkpoint(Path(path))
    spec = read_spec(path)
    task, model = task_of(spec), load_model(path, spec).to(machine.device)
    generator = torch.Generator().manual_seed(seed)
    agent = Agent.acting(model, spec.planner, spec.discount, spec.sentences, generator, planned)
    return Loaded(agent, task, spec, path)


def task_of(spec: AgentSpec) -> TaskConfig:
    """Return a checkpoint's task.

    Raises FolderError if it learned from recordings, so has no task, or if the task is not valid here.
    """
    if not spec.task:
        raise FolderError("checkpoint=: it learned from recordings and has no task; lerobot-rollout runs it on a robot")
    try:
        return build(TaskConfig, spec.task, "task.", whole=True)
    except ConfigError as error:
        raise FolderError(f"checkpoint=: {error}") from error
