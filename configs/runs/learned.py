"""The task that a checkpoint has learned."""

from envs.settings import TaskConfig
from policies.storage.checkpoint import Identity
from policies.storage.folders import FolderError
from worldmodel.strict import ConfigError, build


def task_of(identity: Identity) -> TaskConfig:
    """A checkpoint's task. Raises FolderError for one that learned from recordings, or whose task is none here."""
    if not identity.task:
        raise FolderError("checkpoint=: it learned from recordings and has no task; lerobot-rollout runs it on a robot")
    try:
        return build(TaskConfig, identity.task, "task.", whole=True)
    except ConfigError as error:
        raise FolderError(f"checkpoint=: {error}") from error
