"""The dm_control suite: every task by name, and one built through Shimmy without noise or graphics.

Importing this costs nothing: `build` imports dm_control, MuJoCo and Shimmy. `python -m envs.suite` lists the
names.
"""

import contextlib
import difflib
import io
import os
import sys
import warnings
from collections.abc import Iterator

from worldmodel.mistakes import Mistake

TASKS: tuple[tuple[str, str], ...] = tuple(
    (domain, task)
    for domain, tasks in (
        ("acrobot", "swingup swingup_sparse"),
        ("ball_in_cup", "catch"),
        ("cartpole", "balance balance_sparse swingup swingup_sparse two_poles three_poles"),
        ("cheetah", "run"),
        ("dog", "stand walk trot run fetch"),
        ("finger", "spin turn_easy turn_hard"),
        ("fish", "upright swim"),
        ("hopper", "stand hop"),
        ("humanoid", "stand walk run run_pure_state"),
        ("humanoid_CMU", "stand walk run"),
        ("lqr", "lqr_2_1 lqr_6_2"),
        ("manipulator", "bring_ball bring_peg insert_ball insert_peg"),
        ("pendulum", "swingup"),
        ("point_mass", "easy hard"),
        ("quadruped", "walk run escape fetch"),
        ("reacher", "easy hard"),
        ("stacker", "stack_2 stack_4"),
        ("swimmer", "swimmer6 swimmer15"),
        ("walker", "stand walk run"),
    )
    for task in tasks.split()
)
"""Every (domain, task) of `dm_control.suite.ALL_TASKS`, in its order."""

BY_NAME: dict[str, tuple[str, str]] = {f"{d}-{t}".replace("_", "-"): (d, t) for d, t in TASKS}
"""From a name such as `finger-turn-hard` to its (domain, task)."""

ALIASES: dict[str, str] = {"cup-catch": "ball-in-cup-catch", "ball_in_cup-catch": "ball-in-cup-catch"}
"""Other spellings of a name: TD-MPC2's, Shimmy's."""

NAMES: tuple[str, ...] = (*BY_NAME, *ALIASES)
"""Every name that `find` knows."""


def find(name: str, key: str = "task.name") -> tuple[str, str]:
    """The (domain, task) of a name, or ValueError with the closest names; `key` is where it stood."""
    name = ALIASES.get(name, name)
    if name not in BY_NAME:
        close = difflib.get_close_matches(name, NAMES, n=3, cutoff=0.4) or ["cartpole-swingup", "walker-walk"]
        raise Mistake(
            f"{key}={name}: no such task; close to it: {', '.join(close)}; "
            "`gym` with task.id for a Gymnasium environment; every name: python -m envs.suite"
        )
    return BY_NAME[name]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep MuJoCo from warning that a model file which it compiles in here has a deprecated attribute.

    It would print that and leave a MUJOCO_LOG.TXT where the command was started.
    """
    import mujoco

    warn = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(warn)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import Shimmy and dm_control in here: without a word, and whether or not anything can be drawn.

    Shimmy prints a line where labmaze is missing, which the suite does not need. dm_control reads MUJOCO_GL
    once, when it is imported, warns where there is no display and fails where EGL does: it is told that there
    are no graphics (`envs.rendering` draws without it). MuJoCo reads the variable too, must not see that, and
    so is imported before.

    Raises:
        ValueError: MUJOCO_GL is set to what this machine does not have; MuJoCo can't be imported then.
    """
    backend = os.environ.get("MUJOCO_GL")
    try:
        import mujoco  # noqa: F401
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        if backend is None:
            raise
        raise Mistake(f"MUJOCO_GL={backend}: it does not load here ({error}); unset it") from error

    printed = io.StringIO()
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        # dm_control also switches every deprecation warning of the process on; that ends with this block.
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            yield
    finally:
        del os.environ["MUJOCO_GL"]
        if backend is not None:
            os.environ["MUJOCO_GL"] = backend
        sys.stdout.writelines(line for line in printed.getvalue().splitlines(keepends=True) if "locomotion" not in line)


def build(name: str):
    """A suite task as Shimmy makes it: observations a Dict of float64, actions in the task's own range.

    Some tasks (lqr) draw their *model* at random when they are built, which no later seed undoes: it is
    always drawn from seed 0. The episodes start unseeded, as everywhere in Gymnasium, until
    `reset(seed=...)`.
    """
    domain, task = find(name)
    with importing():
        import gymnasium
        import numpy as np
        import shimmy  # noqa: F401
    with quiet():
        env = gymnasium.make(f"dm_control/{domain}-{task}-v0", task_kwargs={"random": 0}, disable_env_checker=True)
    if (domain, task) == ("quadruped", "escape"):  # its reset would open a window to show the new terrain in
        env.unwrapped.physics._make_rendering_contexts = lambda: None
    env.unwrapped.np_random = np.random.RandomState()
    return env


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # as before `| head`
        print("\n".join(NAMES), flush=True)
