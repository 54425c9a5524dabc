"""Laws of several tasks in one environment: the seed chooses, evenly; an episode is what its task alone would have."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs import lerobot_view
from envs.make import episode_limit, make, make_vector
from envs.multi import Multi, take_turns
from envs.senses import Senses
from envs.sentences import PARAPHRASES, SENTENCES, other_words
from envs.settings import TaskConfig
from sim.variation import Variation
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY
from worldmodel.strict import build

WALKERS = ("walker-stand", "walker-walk", "walker-run")
SPOKEN = Senses(("state", "language"))
TASK = TaskConfig("multi", names=WALKERS, max_control_steps=5)


@pytest.fixture(scope="module")
def env():
    env = make(TASK, senses=SPOKEN)
    yield env
    env.close()


@pytest.fixture(scope="module", params=[1, 2], ids=["in this process", "in two processes"])
def vector(request):
    vector = make_vector(TASK, request.param, senses=SPOKEN)
    yield vector
    vector.close()


def play(env, seed, count=5):
    """The task, the observations' states (count + 1, S) and sentences, and the rewards (count,) of an episode."""
    observation, info = env.reset(seed=seed)
    states, said, rewards, tasks = [observation[STATE_KEY]], {observation[LANGUAGE_KEY]}, [], {info.get("task")}
    for action in np.random.default_rng(seed).uniform(-1, 1, (count, 6)).astype(np.float32):
        observation, reward, _, _, info = env.step(action)
        states.append(observation[STATE_KEY])
        rewards.append(reward)
        said.add(observation[LANGUAGE_KEY])
        tasks.add(info.get("task"))
    return tasks, said, np.stack(states), np.array(rewards)


def test_an_episode_is_what_its_task_alone_would_have_from_that_seed(env):
    alone = {name: make(TaskConfig(name, max_control_steps=5), senses=SPOKEN) for name in WALKERS}
    met = set()
    for seed in range(8):
        (task,), said, states, rewards = play(env, seed)
        met.add(task)
        _, (sentence,), expected, earned = play(alone[task], seed)
        assert said == {sentence} == {SENTENCES[task]}
        np.testing.assert_array_equal(states, expected)
        np.testing.assert_array_equal(rewards, earned)
    assert met == set(WALKERS)


def test_without_a_seed_the_last_seeds_choices_go_on(env):
    fresh = make(TASK, senses=SPOKEN)
    runs = []
    for each in (env, fresh):
        each.reset(seed=9)
        begun = [each.reset() for _ in range(6)]
        runs.append([(info["task"], *observation[STATE_KEY]) for observation, info in begun])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 6


def slide(toys, limit=None, rate=30.0):
    env = toys.Slide(limit)
    env.metadata = {"episode_limit": limit, "render_fps": rate}
    return env


class Die(gymnasium.Env):
    """Shows a number from 0 to 2, drawn at each reset."""

    observation_space = action_space = spaces.Box(-1, 1, (1,))
    metadata = {"episode_limit": 1, "render_fps": 1}  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return int(self.np_random.integers(3)), {}


def test_every_task_comes_as_often_and_the_choice_says_nothing_about_what_the_task_draws():
    multi = Multi({str(i): Die() for i in range(3)})
    met = np.zeros((3, 3))
    for seed in range(1800):
        shown, info = multi.reset(seed=seed)
        met[int(info["task"]), shown] += 1
    assert (abs(met.sum(1) - 600) < 5 * np.sqrt(1800 * 2 / 9)).all()
    assert (abs(met - 200) < 5 * np.sqrt(1800 * 8 / 81)).all()


def test_the_longest_episode_is_the_limit(toys):
    assert episode_limit(Multi({"a": slide(toys, 7), "b": slide(toys, 9)})) == 9
    assert episode_limit(Multi({"a": slide(toys, 7), "b": slide(toys)})) is None


def test_what_is_drawn_is_the_episodes_own_task(env):
    bases = set()
    for seed in range(8):
        env.reset(seed=seed)
        bases.add(id(env.unwrapped.physics))
    assert len(bases) == 3


def test_all_are_closed(toys, monkeypatch):
    closed = []
    parts = {name: slide(toys) for name in "abc"}
    for name, part in parts.items():
        monkeypatch.setattr(part, "close", functools.partial(closed.append, name))
    Multi(parts).close()
    assert closed == ["a", "b", "c"]


def test_a_vector_carries_the_sentences_and_the_tasks(vector):
    count, alone = vector.num_envs, make(TASK, senses=SPOKEN)
    assert vector.single_observation_space[LANGUAGE_KEY] == alone.observation_space[LANGUAGE_KEY]
    for seeds in ([0, 3][:count], [5, 1][:count]):
        observation, info = vector.reset(seed=seeds)
        expected = [alone.reset(seed=seed) for seed in seeds]
        assert observation[LANGUAGE_KEY] == tuple(one[LANGUAGE_KEY] for one, _ in expected)
        assert list(info["task"]) == [one["task"] for _, one in expected]
        np.testing.assert_array_equal(observation[STATE_KEY], [one[STATE_KEY] for one, _ in expected])
        later, *_, info = vector.step(np.zeros(vector.action_space.shape, np.float32))
        assert later[LANGUAGE_KEY] == observation[LANGUAGE_KEY]
        assert list(info["task"]) == [one["task"] for _, one in expected]
    last = np.arange(count) == count - 1
    again, _ = vector.reset(seed=[0] * count, options={"reset_mask": last})
    assert again[LANGUAGE_KEY] == (*later[LANGUAGE_KEY][:-1], alone.reset(seed=0)[0][LANGUAGE_KEY])


def test_each_of_a_vector_can_be_told_in_its_own_words_from_the_next_reset_on(vector):
    count = vector.num_envs
    said = [*PARAPHRASES["walker-run"][:1], "Gehe ~ über {Straße}!"][:count]
    before, _ = vector.reset(seed=list(range(count)))
    vector.set_attr("sentence", said)
    during = vector.step(np.zeros(vector.action_space.shape, np.float32))[0]
    assert during[LANGUAGE_KEY] == before[LANGUAGE_KEY]
    for seed in (0, 1, 2):  # whichever task comes
        assert vector.reset(seed=[seed] * count)[0][LANGUAGE_KEY] == tuple(said)
    vector.set_attr("sentence", None)
    assert vector.reset(seed=list(range(count)))[0][LANGUAGE_KEY] == before[LANGUAGE_KEY]


def test_a_task_can_be_told_in_the_users_words():
    env = make(TaskConfig("cartpole-balance", instruction="hold it up"), senses=SPOKEN)
    assert env.reset(seed=0)[0][LANGUAGE_KEY] == "hold it up"
    assert isinstance(env.observation_space[LANGUAGE_KEY], spaces.Text)
    assert env.observation_space.contains(env.reset(seed=0)[0])
    env.set_wrapper_attr("sentence", " ")
    with pytest.raises(ValueError, match=r"^observation\.language: ' ' is without text"):
        env.reset(seed=0)
    assert LANGUAGE_KEY not in make(TaskConfig("cartpole-balance")).observation_space


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (TaskConfig("cartpole-balance"), SENTENCES["cartpole-balance"]),
        (TaskConfig("cartpole-balance", instruction="hold it up"), "hold it up"),
        (TaskConfig("gym", "Pendulum-v1"), "Pendulum v1"),
    ],
)
def test_lerobot_is_told_the_tasks_words(task, words):
    assert lerobot_view.make(task, Variation(), Senses(), (8, 8)).task_description == words


def test_words_alone_are_no_sight():
    with pytest.raises(ValueError, match=r"^senses=\[language\]: words alone show nothing"):
        make(TaskConfig("cartpole-balance"), senses=Senses(("language",)))


def test_a_gymnasium_task_has_no_words_of_its_own():
    with pytest.raises(ValueError, match=r"^task\.instruction=: what Pendulum-v1 is about"):
        make(TaskConfig("gym", "Pendulum-v1"), senses=SPOKEN)
    env = make(TaskConfig("gym", "Pendulum-v1", instruction="swing up"), senses=SPOKEN)
    assert env.reset(seed=0)[0][LANGUAGE_KEY] == "swing up"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("walker-walk", "cheetah-run"),
            r"^task\.names: walker-walk and cheetah-run have different observations: "
            r"{'observation\.state': Box\(.*24.*\)}, {'observation\.state': Box\(.*17.*\)}$",
        ),
        (("cartpole-balance", "cartpole-two-poles"), "different observations"),
        (
            ("so101-touch", "walker-walk"),
            r"^task\.names=\[so101-touch,walker-walk\]: the SO-101's tasks go with each other",
        ),
    ],
)
def test_tasks_of_different_bodies_are_refused_in_one_line(names, message):
    with pytest.raises(ValueError, match=message) as caught:
        make(TaskConfig("multi", names=names), senses=SPOKEN)
    assert "\n" not in str(caught.value)


def test_tasks_with_other_decisions_are_refused(toys):
    with pytest.raises(ValueError, match=r"^task\.names: a and b have different control steps a second: 30.0, 20.0$"):
        Multi({"a": slide(toys), "b": slide(toys, rate=20.0)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "multi"}, r"^task\.names=\[\]: two or more different tasks, e.g. task=multi task.names="),
        ({"name": "multi", "names": ("walker-walk",)}, r"^task\.names=\[walker-walk\]: two or more different"),
        ({"name": "multi", "names": ("walker-walk", "walker-walk")}, "two or more different"),
        ({"name": "multi", "names": ("walker-walk", "walkr-run")}, r"^task\.names=walkr-run: no such .*walker-run"),
        ({"name": "multi", "names": ("walker-walk", "so101-tuch")}, r"^task\.names=so101-tuch: no such task"),
        ({"name": "multi", "names": ("walker-walk", "gym")}, r"^task\.names=gym: no such task"),
        ({"name": "multi", "names": WALKERS, "id": "Pendulum-v1"}, r"^task\.id=Pendulum-v1: only with task\.name=gym"),
        ({"name": "multi", "names": WALKERS, "instruction": "go"}, r"^task\.instruction=go: only for a single task"),
        ({"name": "multi", "names": WALKERS, "control_hz": 20.0}, r"^task\.control_hz=20.0: only for the SO-101's"),
        ({"name": "walker-walk", "names": WALKERS}, r"^task\.names=\[walker-stand,.*: only with task=multi, not with"),
        ({"name": "gym", "id": "A-v1", "names": WALKERS}, r"^task\.names=.*: only with task=multi, not with task=gym"),
        ({"name": "walker-walk", "instruction": "  "}, r"^task\.instruction: '  ' is without text"),
        ({"name": "walker-walk", "instruction": "go\nthere"}, r"^task\.instruction: .* characters outside Latin-1"),
    ],
)
def test_settings_of_several_tasks_that_make_no_sense_are_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        TaskConfig(**settings)
    assert "\n" not in str(caught.value)


def test_several_tasks_are_called_by_all_their_names_and_share_their_settings():
    assert TASK.label == "walker-stand+walker-walk+walker-run"
    assert TASK.parts == tuple(TaskConfig(name, max_control_steps=5) for name in WALKERS)
    assert TaskConfig("walker-walk").parts == (TaskConfig("walker-walk"),)
    arms = TaskConfig("multi", names=("so101-touch", "so101-move"), control_hz=20.0)
    assert [part.control_hz for part in arms.parts] == [20.0, 20.0]
    assert arms.action_repeat == 1
    assert build(TaskConfig, {"name": "multi", "names": list(WALKERS)}) == TaskConfig("multi", names=WALKERS)


def test_each_episode_of_a_task_can_be_said_in_other_words():
    env, heard = make(TASK, senses=SPOKEN), {}
    for number in (0, 19, 20):
        env.say(other_words(number))
        for seed in range(12):
            observation, info = env.reset(seed=seed)
            heard[number, info["task"]] = observation[LANGUAGE_KEY]
    for name in WALKERS:
        assert heard[0, name] == PARAPHRASES[name][0] == heard[20, name]
        assert heard[19, name] == PARAPHRASES[name][19]
    env.close()


def test_in_an_evaluation_the_tasks_take_turns():
    vector = make_vector(TASK, 7, processes=False, senses=SPOKEN)
    take_turns(vector.envs)
    for seed in (0, 1):
        _, info = vector.reset(seed=list(range(seed, seed + 7)))
        assert list(info["task"]) == [*WALKERS, *WALKERS, WALKERS[0]]
    vector.close()
