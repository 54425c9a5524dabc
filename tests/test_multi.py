"""Laws of several tasks in one environment: the seed chooses, evenly; an episode is what its task alone would have."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.lerobot_env import make_view
from envs.make import make, make_vector
from envs.senses import Senses
from envs.settings import INSTRUCTIONS, TaskConfig
from envs.wrappers import Multi
from policies.settings import QUANTITIES
from sim.variation import Variation
from worldmodel.errors import UserError
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY

WALKERS = ("walker-stand", "walker-walk", "walker-run")
SENSES = Senses(("state", "language"))
GYM = TaskConfig("gym", "Pendulum-v1")
TASK = TaskConfig("multi", names=WALKERS, max_control_steps=5)


@pytest.fixture(scope="module")
def env():
    env = make(TASK, senses=SENSES)
    yield env
    env.close()


def play(env, seed):
    """The task, the instructions, the states (6, S) and the rewards (5,) of an episode."""
    observation, info = env.reset(seed=seed)
    states, instructions, rewards, tasks = [observation[STATE_KEY]], {observation[LANGUAGE_KEY]}, [], [info.get("task")]
    for action in np.random.default_rng(seed).uniform(-1, 1, (5, 6)).astype(np.float32):
        observation, reward, _, _, info = env.step(action)
        states.append(observation[STATE_KEY])
        rewards.append(reward)
        instructions.add(observation[LANGUAGE_KEY])
        tasks.append(info.get("task"))
    return set(tasks), instructions, np.stack(states), np.array(rewards)


def test_an_episode_is_what_its_task_alone_would_have_from_that_seed(env):
    alone = {name: make(TaskConfig(name, max_control_steps=5), senses=SENSES) for name in WALKERS}
    met, bases = set(), set()
    for seed in range(8):
        (task,), instructions, states, rewards = play(env, seed)
        met.add(task)
        bases.add(id(env.unwrapped.physics))  # what is drawn
        _, expected_instructions, expected, earned = play(alone[task], seed)
        assert instructions == expected_instructions == {INSTRUCTIONS[task]}
        np.testing.assert_array_equal(states, expected)
        np.testing.assert_array_equal(rewards, earned)
    assert met == set(WALKERS) and len(bases) == 3


class Die(gymnasium.Env):
    """Shows a number from 0 to 2, drawn at each reset."""

    action_space = spaces.Box(-1, 1, (1,))
    observation_space = spaces.Dict({"a": action_space})

    def __init__(self, limit=1, rate=1.0, size=1):
        self.metadata = {"episode_limit": limit, "render_fps": rate, QUANTITIES: {}}
        self.observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (size,))})
        self.closed = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return int(self.np_random.integers(3)), {QUANTITIES: np.zeros(0)}

    def close(self):
        self.closed = True


def test_every_task_comes_as_often_and_the_choice_says_nothing_about_what_the_task_draws():
    parts = {str(i): Die() for i in range(3)}
    multi, met = Multi(parts), np.zeros((3, 3))
    for seed in range(1800):
        shown, info = multi.reset(seed=seed)
        met[int(info["task"]), shown] += 1
    assert (abs(met.sum(1) - 600) < 5 * np.sqrt(1800 * 2 / 9)).all()
    assert (abs(met - 200) < 5 * np.sqrt(1800 * 8 / 81)).all()
    multi.close()
    assert all(part.closed for part in parts.values())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"rate": 2.0}, r"^task\.names: a and b have different control steps a second: 1.0, 2.0$"),
        ({"size": 2}, r"^task\.names: a and b have different a: Box\(.*\(1,\).*\), Box\(.*\(2,\).*\)$"),
    ],
)
def test_only_tasks_of_one_body_go_together_and_the_longest_is_the_limit(other, message):
    with pytest.raises(UserError, match=message):
        Multi({"a": Die(), "b": Die(**other)})
    assert Multi({"a": Die(7), "b": Die(9), "c": Die(8)}).metadata["episode_limit"] == 9
    assert Multi({"a": Die(7), "b": Die(None)}).metadata["episode_limit"] is None


def test_a_vector_of_processes_carries_the_instructions_and_the_tasks(env):
    vector, seeds = make_vector(TASK, 2, senses=SENSES), [0, 3]
    assert vector.single_observation_space[LANGUAGE_KEY] == env.observation_space[LANGUAGE_KEY]
    observation, info = vector.reset(seed=seeds)
    expected = [env.reset(seed=seed) for seed in seeds]
    later, *_, info_later = vector.step(np.zeros(vector.action_space.shape, np.float32))
    for shown, facts in ((observation, info), (later, info_later)):
        assert shown[LANGUAGE_KEY] == tuple(one[LANGUAGE_KEY] for one, _ in expected)
        assert list(facts["task"]) == [one["task"] for _, one in expected]
    np.testing.assert_array_equal(observation[STATE_KEY], [one[STATE_KEY] for one, _ in expected])
    again, _ = vector.reset(seed=[0, 0], options={"reset_mask": np.array([False, True])})
    assert again[LANGUAGE_KEY] == (later[LANGUAGE_KEY][0], env.reset(seed=0)[0][LANGUAGE_KEY])
    vector.close()


def test_the_users_instruction_replaces_the_tasks_own_from_the_next_reset_on():
    env = make(TaskConfig("cartpole-balance", instruction="hold it up"), senses=SENSES)
    assert env.reset(seed=0)[0][LANGUAGE_KEY] == "hold it up"
    for task, instruction in ((TaskConfig("cup-catch"), INSTRUCTIONS["ball-in-cup-catch"]), (GYM, "Pendulum v1")):
        assert make_view(task, Variation(), Senses(), (8, 8)).task_description == instruction
    env.set_wrapper_attr("instruction", "Gehe ~ über {Straße}!")
    assert env.step(np.zeros(1, np.float32))[0][LANGUAGE_KEY] == "hold it up"
    observation, _ = env.reset(seed=0)
    assert observation[LANGUAGE_KEY] == "Gehe ~ über {Straße}!" and env.observation_space.contains(observation)
    env.set_wrapper_attr("instruction", " ")
    with pytest.raises(ValueError, match=r"^observation\.language: ' ' is without text"):
        env.reset(seed=0)


def test_an_instruction_alone_shows_nothing_and_a_gymnasium_task_has_none_of_its_own():
    with pytest.raises(UserError, match=r"^senses=\[language\]: words alone show nothing"):
        make(TaskConfig("cartpole-balance"), senses=Senses(("language",)))
    with pytest.raises(UserError, match=r"^task\.instruction=: what Pendulum-v1 is about"):
        make(GYM, senses=SENSES)


def test_in_an_evaluation_the_tasks_take_turns():
    vector = make_vector(TASK, 4, processes=False, senses=SENSES)
    for first in (0, 57):
        for number, each in enumerate(vector.envs, first):
            each.get_wrapper_attr("fix")(number)
        assert list(vector.reset(seed=[0] * 4)[1]["task"]) == [*WALKERS, WALKERS[0]]
    vector.close()
