"""The cameras of a task's environment, by name."""

from typing import TYPE_CHECKING

import gymnasium

from envs import suite
from envs.rendering import physics
from envs.senses import MAIN
from sim.canvas import GROUPS, View

if TYPE_CHECKING:
    from envs.settings import TaskConfig

SECOND = {"quadruped": 2}
"""Suite domains that, following Dreamer, are learned from pixels through a camera other than their first."""


def views(task: "TaskConfig", env: gymnasium.Env) -> dict[str, View | None]:
    """Return every camera's view by name; None stands for the environment's default view or its own rendering.

    `main` is the camera that pixel-based benchmarks use; the others are the arm's own views and the cameras named in
    the MuJoCo model.
    """
    base = env.unwrapped
    model, _ = physics(base)
    if model is None:
        return {MAIN: None}
    if task.is_arm:
        from sim.so101.scene import bare

        own = bare(env).views
        return {MAIN: own["side"], "front": own["side"], **own, **_named(model, own["side"].groups)}
    named = _named(model, GROUPS)
    if task.name == "gym":
        return {**named, MAIN: None}
    domain, _ = suite.find(task.name)
    main = model.camera(SECOND[domain]).name if domain in SECOND else ""
    return {**named, MAIN: named.get(main)}


def _named(model, groups: tuple[int, ...]) -> dict[str, View]:
    names = [model.camera(i).name for i in range(model.ncam)]
    return {name: View(name, groups=groups) for name in names if name}
