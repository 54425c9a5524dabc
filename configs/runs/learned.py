"""The task that a checkpoint has learned."""

from dataclasses import fields

from envs.settings import TaskConfig
from policies.checkpoint import Identity
from policies.folders import FolderError


def task_of(identity: Identity) -> TaskConfig:
    """A checkpoint's task. Raises FolderError for one that learned from recordings, or under keys unknown here.

    ValueError: a task that cannot be made here.
    """
    if not identity.task:
        raise FolderError("checkpoint=: it learned from recordings and has no task; lerobot-rollout runs it on a robot")
    if more := sorted(identity.task.keys() - {field.name for field in fields(TaskConfig)}):
        raise FolderError(f"checkpoint=: its task has {', '.join(more)}, unknown here: of another version of Semagram")
    return TaskConfig(**identity.task)
