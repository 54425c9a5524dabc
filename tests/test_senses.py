"""Laws of what an environment gives to see: frames show the state and nothing else; what can't be had is refused."""

import re
import sys

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from envs.cameras import frame, physics
from envs.make import make, make_vector
from envs.senses import Senses
from envs.settings import TaskConfig
from envs.task_env import EnvironmentFault
from sim import renderer
from worldmodel.senses import STATE_KEY, key

SUITE = TaskConfig("cartpole-swingup")
ARM = TaskConfig("so101-touch")
ESCAPE = TaskConfig("quadruped-escape")
MAIN = key("images.main")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a process can't import a test


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


def test_a_frame_depends_on_the_physics_state_alone(drawing):
    one, other = seeing(SUITE, "main"), seeing(SUITE, "main")
    play(one, 1)
    play(other, 2, 2)
    assert np.any(play(one, 1)[-1][MAIN] != play(other, 2, 2)[-1][MAIN])
    with other.unwrapped.physics.reset_context():
        other.unwrapped.physics.set_state(one.unwrapped.physics.get_state())
    np.testing.assert_array_equal(frame(one, 32, 32), frame(other, 32, 32))
    for env in (one, other):
        env.close()


@pytest.mark.parametrize("task", [SUITE, ARM], ids=lambda task: task.label)
def test_frames_change_nothing_of_an_episode(drawing, task):
    env, unseen = seeing(task, "main"), make(task)
    for seen, observation in zip(play(env, 3), play(unseen, 3), strict=True):
        np.testing.assert_array_equal(seen[STATE_KEY], observation[STATE_KEY])
    assert list(unseen.observation_space) == [STATE_KEY]
    env.close()


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
        model, data = physics(env.unwrapped)
        untouched, _ = physics(make(task).unwrapped)
        np.testing.assert_array_equal(model.geom_size, untouched.geom_size)
        assert model.vis.quality.numslices == untouched.vis.quality.numslices
        view = env.unwrapped.view if task.is_arm else None
        fine = renderer.Canvas(model, 640, 640, view).draw(data)[5::10, 5::10]
        assert np.abs(coarse - fine).mean() < 4
        env.close()


def test_two_processes_see_what_one_sees_alone(drawing):
    senses = Senses(("state", "images.main"), 32)
    alone = make(SUITE, senses=senses)
    expected = [play(alone, seed, 2) for seed in (7, 3)]
    vector = make_vector(SUITE, 2, senses=senses)
    assert vector.single_observation_space == alone.observation_space
    actions = np.random.default_rng(0).uniform(-1, 1, (2, *alone.action_space.shape)).astype(np.float32)
    seen = [vector.reset(seed=[7, 3])[0], *(vector.step(np.stack([action] * 2))[0] for action in actions)]
    vector.close()
    alone.close()
    for i, one in enumerate(expected):
        assert_same(one, [{name: both[name][i] for name in one[0]} for both in seen])
    assert all(both["mask.images.main"].all() for both in seen)


class Screen(gymnasium.Env):
    """Draws itself: all its pixels have the value `level`, and `side` of them make an edge."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Box(-1, 1, (1,))
    level, side = 0, 40

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def render(self):
        picture = np.full((self.side, self.side, 3), self.level, np.uint8)
        picture[::2] += 10
        return picture


class Blind(Screen):
    """Draws nothing."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self):
        pass


@pytest.fixture
def screen():
    """Registers the two classes above; makes tasks of them that see."""

    def of(name="Screen"):
        return seeing(TaskConfig("gym", f"semagram/{name}-v0"), "main", size=20)

    for name, environment in (("Screen", Screen), ("Blind", Blind)):
        gymnasium.register(f"semagram/{name}-v0", environment)
    yield of
    for name in ("Screen", "Blind"):
        gymnasium.registry.pop(f"semagram/{name}-v0")


def test_an_environment_that_draws_itself_is_seen_at_the_size_chosen(screen):
    frame = screen().reset(seed=0)[0][MAIN]
    np.testing.assert_array_equal(frame, np.full((20, 20, 3), 5))  # the mean of the rows


def test_a_camera_that_changes_size_is_a_fault(screen):
    env = screen()
    env.reset(seed=0)
    env.unwrapped.side = 30
    with pytest.raises(EnvironmentFault, match=r"images.main is \(30, 30, 3\) now, it was \(40, 40, 3\)") as caught:
        env.step(np.zeros(1, np.float32))
    assert "\n" not in str(caught.value)


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


@pytest.fixture
def gripper():
    """Makes a task of it with the senses given."""
    gymnasium.register("semagram/Gripper-v0", Gripper)
    yield lambda *names, **more: make(
        TaskConfig("gym", "semagram/Gripper-v0", **more), senses=Senses(names or ("state",), 20)
    )
    gymnasium.registry.pop("semagram/Gripper-v0")


def test_pictures_that_an_environment_observes_are_cameras(gripper):
    env = gripper("images.top", "state", "images.touch:16x24", "images.main", action_repeat=2)
    env.reset(seed=0)
    seen = env.step(np.ones(1, np.float32))[0]
    assert env.observation_space.contains(seen)
    np.testing.assert_array_equal(seen[key("images.top")], np.full((20, 20, 3), [0, 0, 200]))
    np.testing.assert_array_equal(seen[key("images.touch")], np.full((16, 24, 3), 100))
    np.testing.assert_array_equal(seen[MAIN], seen[key("images.top")])
    np.testing.assert_array_equal(seen[STATE_KEY], [100, 1])
    alone = gripper()
    assert list(alone.observation_space) == [STATE_KEY]
    np.testing.assert_array_equal(alone.reset(seed=0)[0][STATE_KEY], [0, 1])
    env.unwrapped.width = 30
    with pytest.raises(EnvironmentFault, match=r"images.top is \(40, 30, 3\) now, it was \(40, 20, 3\)"):
        env.step(np.ones(1, np.float32))
    with pytest.raises(ValueError, match=r"images.side: .* no such camera; it has main, top, touch$"):
        gripper("images.side")


@pytest.mark.parametrize(
    ("task", "sense", "message"),
    [
        (
            TaskConfig("walker-walk"),
            "images.nose",
            "^senses=images.nose: walker-walk has no such camera; .* back, main, side",
        ),
        (ARM, "images.nose", "it has front, main, overhead, side, wrist, wrist_cam$"),
        (TaskConfig("gym", "Pendulum-v1"), "language", "^task.instruction=: what Pendulum-v1 is about"),
    ],
)
def test_a_sense_that_is_not_there_is_refused_with_those_that_are(drawing, task, sense, message):
    with pytest.raises(ValueError, match=message) as caught:
        make(task, senses=Senses(("state", sense)))
    assert "\n" not in str(caught.value)


def test_an_environment_that_draws_nothing_has_no_camera(screen):
    with pytest.raises(ValueError, match=r"^senses=images.main: semagram/Blind-v0 draws nothing"):
        screen("Blind")


@pytest.mark.parametrize("count", [1, 2])
def test_without_graphics_there_is_no_seeing(monkeypatch, count):
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    with pytest.raises(ValueError, match=r"^senses=images.main: nothing can be drawn: MUJOCO_GL=disabled$"):
        make_vector(SUITE, count, senses=Senses(("images.main",)))


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ({"chosen": ()}, "senses="),
        ({"chosen": "state"}, "senses=state"),
        ({"chosen": ("state", "sound")}, "sound"),
        ({"chosen": ("images.",)}, "images."),
        ({"chosen": ("images.:64",)}, "images.:64"),
        ({"chosen": ("state", "images.a", "images.a")}, "images.a twice"),
        ({"chosen": ("images.a:64", "images.a:48x64")}, "images.a twice"),
        ({"chosen": ("state:64",)}, "state:64"),
        ({"chosen": ("images.a", "language:")}, "language:"),
        *(({"image_size": size}, f"image_size={size}") for size in (8, 64.0, True)),
        *(
            ({"chosen": ("state", f"images.a:{size}")}, f"images.a:{size}")
            for size in ("", " 64", "0", "15", "513", "99999", "64x", "x64", "48x64x3", "48X64", "1e2", "-64", "٦٤")
        ),
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


def test_a_camera_of_a_model_is_called_as_it_is():
    """What in `senses=` would say its size is here a part of its name."""
    odd = Senses.of({key("images.a:96"): (16, 512, 3)})
    assert (odd.names, odd.sizes) == (("images.a:96",), {"a:96": (16, 512)})


def test_senses_are_told_apart():
    senses = Senses(["images.b", "state", "images.a:48x64", "language"])
    assert senses.cameras == ("b", "a")
    assert senses.state
    assert senses.language
    assert Senses() == Senses(("state",), 64)
    assert Senses(("images.a:64",), 32) == Senses(("images.a:64x64",)) == Senses(("images.a",), 64)
    assert not Senses(("images.a",)).state
