"""The dm_control suite: its tasks by name, and how to build them, through Shimmy, without console output or graphics.

Cheap to import: dm_control, MuJoCo and Shimmy are imported only in `build`. `python -m envs.suite` lists the names.
"""

import contextlib
import difflib
import io
import os
import sys
import warnings
from collections.abc import Iterator

from worldmodel.errors import UserError

TASKS: dict[str, str] = {
    "acrobot swingup": "swing the two linked poles up and balance them",
    "acrobot swingup_sparse": "swing the two linked poles up and hold them exactly upright",
    "ball_in_cup catch": "catch the ball in the cup",
    "cartpole balance": "keep the pole balanced on the cart",
    "cartpole balance_sparse": "keep the pole exactly upright and the cart in the middle",
    "cartpole swingup": "swing the pole up and balance it on the cart",
    "cartpole swingup_sparse": "swing the pole up and hold it exactly upright in the middle",
    "cartpole two_poles": "balance two linked poles on the cart",
    "cartpole three_poles": "balance three linked poles on the cart",
    "cheetah run": "run forward as fast as you can",
    "dog stand": "stand upright on all four legs and stay where you are",
    "dog walk": "walk forward at a steady pace",
    "dog trot": "trot forward briskly",
    "dog run": "run forward as fast as you can",
    "dog fetch": "fetch the ball and bring it back",
    "finger spin": "keep the body spinning",
    "finger turn_easy": "turn the body until its tip is in the large target",
    "finger turn_hard": "turn the body until its tip is in the small target",
    "fish upright": "float upright",
    "fish swim": "swim to the target",
    "hopper stand": "stand upright and stay where you are",
    "hopper hop": "hop forward",
    "humanoid stand": "stand upright and stay where you are",
    "humanoid walk": "walk forward at a steady pace",
    "humanoid run": "run forward as fast as you can",
    "humanoid run_pure_state": "run forward as fast as you can, feeling only your joints",
    "humanoid_CMU stand": "stand upright and stay where you are",
    "humanoid_CMU walk": "walk forward at a steady pace",
    "humanoid_CMU run": "run forward as fast as you can",
    "lqr lqr_2_1": "bring two masses to rest in the middle by pushing one of them",
    "lqr lqr_6_2": "bring six masses to rest in the middle by pushing two of them",
    "manipulator bring_ball": "bring the ball to the target",
    "manipulator bring_peg": "bring the peg to the target",
    "manipulator insert_ball": "put the ball into the basket",
    "manipulator insert_peg": "put the peg into the slot",
    "pendulum swingup": "swing the pendulum up and balance it",
    "point_mass easy": "move to the middle",
    "point_mass hard": "find out how you are pushed, and move to the middle",
    "quadruped walk": "walk forward at a steady pace",
    "quadruped run": "run forward as fast as you can",
    "quadruped escape": "climb out of the hilly ground",
    "quadruped fetch": "fetch the ball and bring it to the target",
    "reacher easy": "reach the large target with the fingertip",
    "reacher hard": "reach the small target with the fingertip",
    "stacker stack_2": "stack two boxes at the target",
    "stacker stack_4": "stack four boxes at the target",
    "swimmer swimmer6": "swim with six links until your nose is at the target",
    "swimmer swimmer15": "swim with fifteen links until your nose is at the target",
    "walker stand": "stand upright and stay where you are",
    "walker walk": "walk forward at a steady pace",
    "walker run": "run forward as fast as you can",
}
"""The instruction for every domain and task of `dm_control.suite.ALL_TASKS`, in its order."""

BY_NAME: dict[str, tuple[str, str]] = {
    f"{domain}-{task}".replace("_", "-"): (domain, task) for domain, task in map(str.split, TASKS)
}
"""(domain, task) by name, e.g. `finger-turn-hard`."""

ALIASES: dict[str, str] = {"cup-catch": "ball-in-cup-catch", "ball_in_cup-catch": "ball-in-cup-catch"}
"""Alternative spellings of task names, as in TD-MPC2 and Shimmy."""

NAMES: tuple[str, ...] = (*BY_NAME, *ALIASES)  # every name that `find` accepts


def find(name: str, key: str = "task.name") -> tuple[str, str]:
    """Return the (domain, task) of a name given in the setting `key`. Raises ValueError with the closest names."""
    name = ALIASES.get(name, name)
    if name not in BY_NAME:
        close = difflib.get_close_matches(name, NAMES, n=3, cutoff=0.4) or ["cartpole-swingup", "walker-walk"]
        raise UserError(
            f"{key}={name}: no such task; close to it: {', '.join(close)}; "
            "`gym` with task.id for a Gymnasium environment; every name: python -m envs.suite"
        )
    return BY_NAME[name]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence MuJoCo's warnings about model files, which it would print and write to MUJOCO_LOG.TXT."""
    import mujoco

    warn = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(warn)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Context for importing Shimmy and dm_control silently, whether or not rendering is available.

    Shimmy prints a line if labmaze is missing, which the suite does not need. dm_control reads MUJOCO_GL once, at
    import; it warns if there is no display and fails if EGL does, so the variable is set to `disabled` meanwhile
    (`envs.cameras` draws without dm_control). MuJoCo reads the variable too and must not see that value, so it is
    imported first. Raises ValueError if MUJOCO_GL names a backend this machine lacks.
    """
    backend = os.environ.get("MUJOCO_GL")
    try:
        import mujoco  # noqa: F401
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        if backend is None:
            raise
        raise UserError(f"MUJOCO_GL={backend}: it does not load here ({error}); unset it") from error

    printed = io.StringIO()
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        # dm_control also enables all deprecation warnings process-wide; catch_warnings undoes that.
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            yield
    finally:
        del os.environ["MUJOCO_GL"]
        if backend is not None:
            os.environ["MUJOCO_GL"] = backend
        sys.stdout.writelines(line for line in printed.getvalue().splitlines(keepends=True) if "locomotion" not in line)


def build(name: str):
    """Build a suite task through Shimmy: observations are a Dict of float64, actions in the task's own range.

    Some tasks (lqr) draw their *model* at random when built, which no later seed can undo, so it is always drawn
    from seed 0. Episodes are unseeded, as everywhere in Gymnasium, until `reset(seed=...)`.
    """
    domain, task = find(name)
    with importing():
        import gymnasium
        import numpy as np
        import shimmy  # noqa: F401
    with quiet():
        env = gymnasium.make(f"dm_control/{domain}-{task}-v0", task_kwargs={"random": 0}, disable_env_checker=True)
    if (domain, task) == ("quadruped", "escape"):  # its reset would open a window to upload the new terrain
        env.get_wrapper_attr("physics")._make_rendering_contexts = lambda: None
    env.unwrapped.set_wrapper_attr("np_random", np.random.RandomState())
    return env


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # e.g. piped into `head`
        print("\n".join(NAMES), flush=True)
