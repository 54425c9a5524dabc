"""What can be set about a task. No torch and no Gymnasium here: commands read it to print help."""

from dataclasses import dataclass

from envs.suite import find


@dataclass(frozen=True)
class TaskConfig:
    """A task: one of the dm_control suite by name, or `gym` with the `id` of a Gymnasium environment.

    An action is held for `action_repeat` environment steps, which make one decision (unless set: 2 for the
    suite, 1 for Gymnasium). `max_decisions` truncates an episode after so many decisions; 0 leaves the
    environment's own limit.
    """

    name: str
    id: str = ""
    action_repeat: int | None = None
    max_decisions: int = 0

    def __post_init__(self):
        """Fill in the action repeat. Raise ValueError, naming the key, for a task that can't be made."""
        if self.name == "gym":
            if not self.id:
                raise ValueError("task.id=: the Gymnasium environment, e.g. task.id=Pendulum-v1 or package:Id-v0")
        else:
            find(self.name)
            if self.id:
                raise ValueError(f"task.id={self.id}: only with task.name=gym, not with task.name={self.name}")
        if self.action_repeat is None:
            object.__setattr__(self, "action_repeat", 1 if self.name == "gym" else 2)
        if self.action_repeat < 1:
            raise ValueError(f"task.action_repeat={self.action_repeat}: at least 1")
        if self.max_decisions < 0:
            raise ValueError(f"task.max_decisions={self.max_decisions}: at least 0 (0: the environment's own limit)")

    @property
    def label(self) -> str:
        """What to call the task in a message or a folder: its name, or its Gymnasium id."""
        return self.id if self.name == "gym" else self.name
