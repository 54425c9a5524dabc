"""Load trained agents from checkpoints."""

from pathlib import Path

import torch

from configs.runs.assembly import prepare
from configs.runs.learned import task_of
from configs.schema import MachineConfig
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.storage.checkpoint import Identity, find_checkpoint, load_model, read_identity
from worldmodel.model import WorldModel
from worldmodel.settings import PlannerConfig


def load_agent(
    path: str | Path, seed: int = 0, device: str = "cpu", threads: int = 1, planned: bool = True
) -> tuple[Agent, TaskConfig]:
    """Load the agent of a checkpoint, or of a run's newest, not compiled, and its task. Sets PyTorch's threads.

    `planned`: act with the planner; otherwise with the policy alone. Raises FolderError as `find_checkpoint`,
    `read_identity`, `load_model` and `task_of` do, and ValueError for a device or threads that this machine lacks.
    """
    machine = prepare(MachineConfig(device, threads, "false"))
    checkpoint = find_checkpoint(Path(path))
    identity = read_identity(checkpoint)
    model = load_model(checkpoint, identity).to(machine.device)
    return loaded_agent(identity, model, planned, seed)


def loaded_agent(
    identity: Identity,
    model: WorldModel,
    planned: bool,
    seed: int,
    planner: PlannerConfig | None = None,
    compiled: bool = False,
) -> tuple[Agent, TaskConfig]:
    """Return an acting agent for a checkpoint's model, and the checkpoint's task.

    `planner`: replaces the checkpoint's planner settings. Raises FolderError as `task_of` does, ValueError.
    """
    task, generator = task_of(identity), torch.Generator().manual_seed(seed)
    config = planner or identity.planner
    agent = Agent.acting(model, config, identity.discount, identity.sentences, generator, planned, compiled)
    return agent, task
