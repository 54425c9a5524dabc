"""The task that a checkpoint was trained on."""

from envs.settings import TaskConfig
from policies.storage.checkpoint import Identity
from policies.storage.folders import FolderError
from worldmodel.strict import ConfigError, build


def task_of(identity: Identity) -> TaskConfig:
    """Return a checkpoint's task.

    Raises FolderError if it learned from recordings, so has no task, or if the task is not valid here.
    """
    if not identity.task:
        raise FolderError("checkpoint=: it learned from recordings and has no task; lerobot-rollout runs it on a robot")
    try:
        return build(TaskConfig, identity.task, "task.", whole=True)
    except ConfigError as error:
        raise FolderError(f"checkpoint=: {error}") from error
