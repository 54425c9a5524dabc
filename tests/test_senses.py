"""Laws of frames: of the size asked for, they show the state and change nothing; what can't be had is refused."""

import os
import re
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from envs.cameras import frame
from envs.make import make
from envs.quantities import simulation
from envs.senses import Senses
from envs.settings import TaskConfig
from envs.task_env import EnvironmentFault
from sim import renderer
from sim.renderer import RenderingUnavailable, choose_backend, middle, shows
from worldmodel.senses import STATE_KEY, key

SUITE = TaskConfig("cartpole-swingup")
ARM = TaskConfig("so101-touch")
ESCAPE = TaskConfig("quadruped-escape")
MAIN, SIDE = key("images.main"), key("images.side")


def seeing(task, *cameras, size=32, state=True):
    return make(task, senses=Senses((*["state"] * state, *(f"images.{camera}" for camera in cameras)), size))


def play(env, seed, count=4):
    """Observations of an episode's first decisions."""
    actions = np.random.default_rng(0).uniform(-1, 1, (count, *env.action_space.shape)).astype(np.float32)
    observations = [env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)]
    return [{name: one[name] for name in one if not name.startswith("mask.")} for one in observations]


def assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("task", [SUITE, ESCAPE, ARM, TaskConfig("gym", "HalfCheetah-v5")], ids=lambda task: task.label)
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
    assert np.ptp(first) > 50 and np.any(first != last)
    np.testing.assert_array_equal(frame(env, 60, 80), last)


def test_a_crop_is_the_largest_in_the_middle_and_one_value_is_no_frame():
    pixels = np.arange(6 * 10, dtype=np.uint8).reshape(6, 10, 1).repeat(3, 2)
    np.testing.assert_array_equal(middle(pixels, 6, 4), pixels[:, 3:7])
    np.testing.assert_array_equal(middle(pixels, 2, 10), pixels[2:4])
    whole = middle(pixels, 6, 6).reshape(3, 2, 3, 2, 3)
    np.testing.assert_array_equal(middle(pixels, 3, 3), np.floor(whole.mean((1, 3)) + 0.5))
    assert shows(pixels) and not shows(pixels[:1, :9]) and shows(np.append(pixels[:1, :9], [[[9] * 3]], 1))


def test_each_camera_has_its_own_size_and_shows_what_it_shows_alone(drawing):
    """Two of one size, one that is not square, one too large for coarse shapes: however many canvases draw them."""
    sizes = {"wrist": (32, 48), "side": (40, 40), "overhead": (300, 40), "front": (40, 40)}
    together = make(ARM, senses=Senses([f"images.{name}:{h}x{w}" for name, (h, w) in sizes.items()]))
    seen = play(together, 0, 2)
    assert seen[0].keys() == {key(f"images.{name}") for name in sizes}
    assert together.observation_space.contains(together.reset(seed=0)[0])
    together.close()
    for name, (height, width) in sizes.items():
        assert seen[0][key(f"images.{name}")].shape == (height, width, 3)
        alone = make(ARM, senses=Senses([f"images.{name}:{height}x{width}"]))
        assert_same([{key(f"images.{name}"): one[key(f"images.{name}")]} for one in seen], play(alone, 0, 2))
        alone.close()


def test_a_small_frame_shows_what_a_fine_one_shows(drawing):
    """It is cut up coarsely; the fine one is that of a canvas too large for it, looked at every tenth pixel."""
    for task in (TaskConfig("cup-catch"), ARM):
        env = seeing(task, "main", size=64)
        coarse = env.reset(seed=0)[0][MAIN].astype(float)
        model, data = simulation(env.unwrapped)
        untouched, _ = simulation(make(task).unwrapped)
        np.testing.assert_array_equal(model.geom_size, untouched.geom_size)
        assert model.vis.quality.numslices == untouched.vis.quality.numslices
        view = env.unwrapped.view if task.is_arm else None
        fine = renderer.Canvas(model, 640, 640, view).draw(data)[5::10, 5::10]
        assert np.abs(coarse - fine).mean() < 4
        env.close()


class Screen(gymnasium.Env):
    """Draws itself: rows of 10 and of 0 by turns, `side` pixels to an edge."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Box(-1, 1, (1,))
    side = 40

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def render(self):
        picture = np.zeros((self.side, self.side, 3), np.uint8)
        picture[::2] = 10
        return picture


@pytest.fixture
def registered():
    """Makes tasks of an environment of this file's."""

    def of(environment, *names, render=False, **more):
        gymnasium.registry.pop("semagram/Seen-v0", None)
        gymnasium.register("semagram/Seen-v0", environment)
        return make(
            TaskConfig("gym", "semagram/Seen-v0", **more), senses=Senses(names or ("state",), 20), render=render
        )

    yield of
    gymnasium.registry.pop("semagram/Seen-v0", None)


def test_an_environment_that_draws_itself_is_brought_to_size_and_a_change_of_its_size_is_a_fault(registered):
    env = registered(Screen, "state", "images.main")
    np.testing.assert_array_equal(env.reset(seed=0)[0][MAIN], np.full((20, 20, 3), 5))  # the mean of the rows
    env.unwrapped.side = 30
    with pytest.raises(EnvironmentFault, match=r"images.main is \(30, 30, 3\) now, it was \(40, 40, 3\)") as caught:
        env.step(np.zeros(1, np.float32))
    assert "\n" not in str(caught.value)
    shown, blank = (registered(Screen, render=render) for render in (True, False))
    shown.reset(seed=0)
    rows = np.arange(80) // 2 % 2 * -10 + 10
    np.testing.assert_array_equal(frame(shown, 80, 60), np.broadcast_to(rows[:, None, None], (80, 60, 3)))
    with pytest.raises(RenderingUnavailable, match="semagram/Seen-v0 draws nothing"):
        frame(blank)


class Gripper(Screen):
    """Observes numbers and two pictures, one of them grey; a step's action says how bright they are."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Dict(
        {
            "place": spaces.Box(-1, 1, (2,), np.float32),
            "pixels": spaces.Dict({"top": spaces.Box(0, 255, (40, 20, 3), np.uint8)}),
            "touch": spaces.Box(0, 255, (10, 10, 1), np.uint8),
        }
    )
    width = 20

    def __init__(self):
        pass

    def reset(self, *, seed=None, options=None):
        return self.see(0), {}

    def step(self, action):
        return self.see(100 * action[0]), 0.0, False, False, {}

    def see(self, light):
        top, touch = np.zeros((40, self.width, 3), np.uint8), np.full((10, 10, 1), light, np.uint8)
        top[..., 2] = 2 * light
        return {"place": np.float32([light, 1]), "pixels": {"top": top}, "touch": touch}


def test_pictures_that_an_environment_observes_are_cameras(registered):
    env = registered(Gripper, "images.top", "state", "images.touch:16x24", "images.main", action_repeat=2)
    env.reset(seed=0)
    seen = env.step(np.ones(1, np.float32))[0]
    assert env.observation_space.contains(seen)
    np.testing.assert_array_equal(seen[key("images.top")], np.full((20, 20, 3), [0, 0, 200]))
    np.testing.assert_array_equal(seen[key("images.touch")], np.full((16, 24, 3), 100))
    np.testing.assert_array_equal(seen[MAIN], seen[key("images.top")])
    np.testing.assert_array_equal(seen[STATE_KEY], [100, 1])
    alone = registered(Gripper)
    assert list(alone.observation_space) == [STATE_KEY]
    np.testing.assert_array_equal(alone.reset(seed=0)[0][STATE_KEY], [0, 1])
    env.unwrapped.width = 30
    with pytest.raises(EnvironmentFault, match=r"images.top is \(40, 30, 3\) now, it was \(40, 20, 3\)"):
        env.step(np.ones(1, np.float32))
    with pytest.raises(ValueError, match=r"images.side: .* no such camera; it has main, top, touch$"):
        registered(Gripper, "images.side")


@pytest.mark.parametrize(
    ("task", "sense", "message"),
    [
        (
            TaskConfig("walker-walk"),
            "images.nose",
            "^senses=images.nose: walker-walk has no such camera; .* back, main, side",
        ),
        (ARM, "images.nose", "it has front, main, overhead, side, wrist, wrist_cam$"),
    ],
)
def test_a_sense_that_is_not_there_is_refused_with_those_that_are(drawing, task, sense, message):
    with pytest.raises(ValueError, match=message) as caught:
        make(task, senses=Senses(("state", sense)))
    assert "\n" not in str(caught.value)


def test_without_graphics_a_task_works_but_nothing_is_seen(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    with pytest.raises(ValueError, match=r"^senses=images.main: nothing can be drawn: MUJOCO_GL=disabled$"):
        make(SUITE, senses=Senses(("images.main",)))
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr(renderer, "LIBRARIES", {"egl": "libNone.so", "osmesa": "libNone.so"})
    monkeypatch.setattr(renderer.sys, "platform", "linux")
    env = make(SUITE, render=True)
    env.reset(seed=0)
    with pytest.raises(RenderingUnavailable, match=r"neither EGL nor OSMesa .* apt-get install libegl1") as caught:
        frame(env)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(renderer, "LIBRARIES", {"egl": "libNone.so", "osmesa": "libc.so.6"})
    assert choose_backend() == "osmesa"


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ({"chosen": ()}, "senses="),
        ({"chosen": "state"}, "senses=state"),
        ({"chosen": ("state", "sound")}, "sound"),
        ({"chosen": ("images.",)}, "images."),
        ({"chosen": ("images.a:64", "images.a:48x64")}, "images.a twice"),
        ({"chosen": ("state:64",)}, "state:64"),
        *(({"image_size": size}, f"image_size={size}") for size in (8, 64.0, True)),
        *(({"chosen": (f"images.a:{size}",)}, f"images.a:{size}") for size in ("", "15", "513", "64x", "1e2", "٦٤")),
    ],
)
def test_senses_out_of_range_are_one_line_that_names_them(what, names):
    with pytest.raises(ValueError, match=f"^[^\\n]*{re.escape(names)}[^\\n]*$"):
        Senses(**what)


SIDES = st.integers(16, 512)
CHOSEN = st.dictionaries(st.sampled_from(["a", "b-1", "main"]), st.none() | SIDES | st.tuples(SIDES, SIDES), min_size=1)


@given(CHOSEN, SIDES, st.booleans())
def test_a_cameras_size_is_its_own_else_that_of_all_and_a_models_shapes_say_the_same(cameras, every, state):
    """And nothing but sizes and names makes senses differ, however they are written."""
    written = {None: "", int: ":{0}", tuple: ":{0[0]}x{0[1]}"}
    chosen = ["state"] * state
    for camera, size in cameras.items():
        chosen.append(f"images.{camera}{written[size and type(size)].format(size)}")
    senses = Senses(chosen, every)
    sizes = {name: size if isinstance(size, tuple) else (size or every,) * 2 for name, size in cameras.items()}
    assert senses.sizes == sizes
    assert senses.names == ("state",) * state + tuple(f"images.{name}" for name in cameras)
    shapes = {key(name): (*sizes[name[7:]], 3) if name != "state" else (5,) for name in senses.names}
    same = Senses.of(shapes)
    assert same == senses and hash(same) == hash(senses)
    (first, (height, width)), *_ = sizes.items()
    assert Senses.of(shapes | {key(f"images.{first}"): (528 - height, width, 3)}) != senses or height == 264


@pytest.mark.parametrize("sides", [(15, 64), (64, 513)])
def test_no_environment_shows_a_model_frames_out_of_bounds(sides):
    said = rf"^observation.images.a: \({sides[0]}, {sides[1]}, 3\): a whole number of pixels from 16 to 512$"
    with pytest.raises(ValueError, match=said):
        Senses.of({key("state"): (3,), key("images.a"): (*sides, 3)})


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
