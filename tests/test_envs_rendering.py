"""Laws of a frame: it has the size asked for, shows the state, changes nothing; or says in a line what is missing."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.cameras import frame
from envs.make import make
from envs.settings import TaskConfig
from sim import renderer
from sim.renderer import RenderingUnavailable, choose_backend

STATE_KEY = "observation.state"


@pytest.mark.parametrize(
    "task",
    [
        TaskConfig("cartpole-swingup"),
        TaskConfig("quadruped-escape"),
        TaskConfig("so101-touch"),
        TaskConfig("gym", "HalfCheetah-v5"),
    ],
    ids=lambda task: task.label,
)
def test_a_frame_shows_the_state_and_leaves_it(drawing, task):
    env, unseen = make(task, render=True), make(task)
    for each in (env, unseen):
        each.reset(seed=1)
    frames = []
    for value in (0.9, -0.9, 0.9, 0.9):
        action = np.full(env.action_space.shape, value, np.float32)
        np.testing.assert_array_equal(env.step(action)[0][STATE_KEY], unseen.step(action)[0][STATE_KEY])
        frames.append(frame(env, 60, 80))
    first, last = frames[0], frames[-1]
    assert first.shape == (60, 80, 3)
    assert first.dtype == np.uint8
    assert first.flags.c_contiguous
    assert np.ptp(first) > 50
    assert np.any(first != last)
    np.testing.assert_array_equal(frame(env, 60, 80), last)


def test_a_frame_has_the_size_asked_for(drawing):
    env = make(TaskConfig("walker-walk"), render=True)
    env.reset(seed=0)
    small, large, again = (frame(env, 48 * scale, 64 * scale) for scale in (1, 22, 1))
    assert large.shape == (1056, 1408, 3)
    assert np.abs(large[11::22, 11::22].astype(float) - small).mean() < 5
    np.testing.assert_array_equal(small, again)


class Painted(gymnasium.Env):
    """Draws itself: four colours in 2 x 2 pixels."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def render(self):
        return np.arange(12, dtype=np.uint8).reshape(2, 2, 3)


class Blank(gymnasium.Env):
    """Draws nothing, and does not know of drawing."""

    observation_space, action_space = Painted.observation_space, Painted.action_space

    def __init__(self):
        pass

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}


@pytest.fixture
def registered():
    """Makes tasks of the two classes above, ready to draw."""
    gymnasium.register("semagram/Painted-v0", Painted)
    gymnasium.register("semagram/Blank-v0", Blank)

    def ready(name):
        env = make(TaskConfig("gym", f"semagram/{name}-v0"), render=True)
        env.reset(seed=0)
        return env

    yield ready
    for name in ("Painted", "Blank"):
        gymnasium.registry.pop(f"semagram/{name}-v0")


def test_an_environment_that_draws_itself_is_brought_to_size(registered):
    pixels = frame(registered("Painted"), 4, 6)
    np.testing.assert_array_equal(pixels, np.arange(12).reshape(2, 2, 3).repeat(2, axis=0).repeat(3, axis=1))


def test_an_environment_that_draws_nothing_says_so(registered):
    with pytest.raises(RenderingUnavailable, match="semagram/Blank-v0 draws nothing"):
        frame(registered("Blank"))


@pytest.mark.parametrize(
    ("variables", "libraries", "message"),
    [
        ({}, {"egl": "libNone.so", "osmesa": "libNone.so"}, "neither EGL nor OSMesa .* apt-get install libegl1"),
        ({"MUJOCO_GL": "disabled"}, {}, "MUJOCO_GL=disabled"),
    ],
)
def test_without_graphics_a_task_works_and_a_frame_says_what_to_install(monkeypatch, variables, libraries, message):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(renderer, "LIBRARIES", libraries)
    monkeypatch.setattr(renderer.sys, "platform", "linux")
    env = make(TaskConfig("cartpole-swingup"), render=True)
    env.reset(seed=0)
    with pytest.raises(RenderingUnavailable, match=message) as caught:
        frame(env)
    assert "\n" not in str(caught.value)


def test_the_backend_that_is_set_is_taken(monkeypatch):
    for backend in ("egl", "osmesa", "glfw"):
        monkeypatch.setenv("MUJOCO_GL", backend)
        assert choose_backend() == backend
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr(renderer.sys, "platform", "linux")
    monkeypatch.setattr(renderer, "LIBRARIES", {"egl": "libNone.so", "osmesa": "libc.so.6"})
    assert choose_backend() == "osmesa"


def draw_elsewhere(**variables):
    """Draw two tasks in another process, since MuJoCo asks for a driver once; what it says, and its errors."""
    code = """
from envs.make import make
from envs.cameras import frame
from envs.settings import TaskConfig
from sim.renderer import RenderingUnavailable
try:
    for task in TaskConfig("cartpole-swingup"), TaskConfig("walker-walk"):
        env = make(task, render=True)
        env.reset(seed=0)
        print(frame(env).shape)
except RenderingUnavailable as error:
    print(error)
"""
    environment = {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"} | variables
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout, done.stderr


def test_a_process_that_has_drawn_ends_without_a_word(drawing):
    assert draw_elsewhere() == ("(240, 320, 3)\n" * 2, "")


@pytest.mark.skipif(choose_backend() != "egl", reason="needs EGL")
def test_a_driver_that_does_not_start_is_one_line():
    """As where libEGL is installed without a driver."""
    said, errors = draw_elsewhere(__EGL_VENDOR_LIBRARY_DIRS="/none")
    assert said.startswith("nothing can be drawn: egl does not start")
    assert "apt-get install" in said
    assert said.count("\n") == 1
    assert not errors
