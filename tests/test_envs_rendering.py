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
from sim.renderer import RenderingUnavailable, choose_backend, middle, shows
from worldmodel.senses import STATE_KEY

TASKS = [TaskConfig(name) for name in ("cartpole-swingup", "quadruped-escape", "so101-touch")]
TASKS += [TaskConfig("gym", "HalfCheetah-v5")]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label)
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
    assert first.shape == (60, 80, 3) and first.dtype == np.uint8 and first.flags.c_contiguous
    assert np.ptp(first) > 50
    assert np.any(first != last)
    np.testing.assert_array_equal(frame(env, 60, 80), last)


def test_a_large_frame_shows_what_a_small_one_shows(drawing):
    env = make(TaskConfig("walker-walk"), render=True)
    env.reset(seed=0)
    small, large, again = (frame(env, 48 * scale, 64 * scale) for scale in (1, 22, 1))
    assert large.shape == (1056, 1408, 3)
    assert np.abs(large[11::22, 11::22].astype(float) - small).mean() < 5
    np.testing.assert_array_equal(small, again)


def test_a_crop_is_the_largest_in_the_middle_and_one_value_is_no_frame():
    pixels = np.arange(6 * 10, dtype=np.uint8).reshape(6, 10, 1).repeat(3, 2)
    np.testing.assert_array_equal(middle(pixels, 6, 4), pixels[:, 3:7])
    np.testing.assert_array_equal(middle(pixels, 2, 10), pixels[2:4])
    np.testing.assert_array_equal(
        middle(pixels, 3, 3), np.floor(middle(pixels, 6, 6).reshape(3, 2, 3, 2, 3).mean((1, 3)) + 0.5)
    )
    assert shows(pixels) and not shows(pixels[:1, :9]) and shows(np.append(pixels[:1, :9], [[[9] * 3]], 1))


class Painted(gymnasium.Env):
    """Draws itself, if it is asked to: four colours in 2 x 2 pixels."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def render(self):
        return np.arange(12, dtype=np.uint8).reshape(2, 2, 3)


def test_an_environment_that_draws_itself_is_brought_to_size_and_else_says_so():
    gymnasium.register("semagram/Painted-v0", Painted)
    env, blank = (make(TaskConfig("gym", "semagram/Painted-v0"), render=render) for render in (True, False))
    gymnasium.registry.pop("semagram/Painted-v0")
    env.reset(seed=0)
    pixels = frame(env, 4, 6)
    np.testing.assert_array_equal(pixels, np.arange(12).reshape(2, 2, 3).repeat(2, axis=0).repeat(3, axis=1))
    with pytest.raises(RenderingUnavailable, match="semagram/Painted-v0 draws nothing"):
        frame(blank)


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


@pytest.mark.skipif(choose_backend() != "egl", reason="needs EGL")
@pytest.mark.parametrize("drivers", [True, False], ids=["", "without a driver"])
def test_a_process_that_draws_ends_without_a_word_more(drawing, drivers):
    """In another process, since MuJoCo asks for a driver once."""
    code = """
import mujoco
from sim.renderer import Canvas, RenderingUnavailable
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
try:
    for size in (40, 50):
        print(Canvas(model, size, size).draw(mujoco.MjData(model)).shape)
except RenderingUnavailable as error:
    print(error)
"""
    environment = {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"}
    environment |= {} if drivers else {"__EGL_VENDOR_LIBRARY_DIRS": "/none"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    if drivers:
        assert done.stdout == "(40, 40, 3)\n(50, 50, 3)\n"
    else:
        assert done.stdout.startswith("nothing can be drawn: egl does not start") and done.stdout.count("\n") == 1
        assert "apt-get install" in done.stdout
