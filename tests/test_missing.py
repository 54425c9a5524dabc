"""Laws of senses that fail: the observation says which, nothing else changes, and a dark camera is named once."""

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from envs.instructions import INSTRUCTIONS
from envs.make import make
from envs.missing import PATIENCE, Masked
from envs.senses import Senses
from envs.settings import TaskConfig
from policies.training.episodes import observe

STATE_KEY, MAIN, SIDE = "observation.state", "observation.images.main", "observation.images.side"
ACTION = np.zeros(1, np.float32)


class Room(gymnasium.Env):
    """Counts its steps; its two cameras show a light whose brightness the action is, of 255, and `noise`."""

    observation_space = spaces.Dict(
        {
            STATE_KEY: spaces.Box(-np.inf, np.inf, (1,), np.float32),
            **{camera: spaces.Box(0, 255, (4, 4, 3), np.uint8) for camera in (MAIN, SIDE)},
        }
    )
    action_space = spaces.Box(0, 255, (1,), np.float32)
    noise = 0

    def reset(self, *, seed=None, options=None):
        self.clock = 0
        return self.see(200), {}

    def step(self, action):
        self.clock += 1
        return self.see(int(action[0])), float(self.clock), False, False, {}

    def see(self, light):
        main, side = (np.full((4, 4, 3), self.noise, np.uint8) for _ in range(2))
        main[:2], side[:2] = main[:2] + light, 100
        return {STATE_KEY: np.float32([self.clock + 1]), MAIN: main, SIDE: side}


def masks(env, *lights):
    """The masks of an episode in which the light does that: after the reset, after each step; by camera."""
    seen = [env.reset(seed=0)[0], *(env.step(np.float32([light]))[0] for light in lights)]
    assert all(env.observation_space.contains(observation) for observation in seen)
    return {name: [bool(o[name][0]) for o in seen] for name in seen[0] if name.startswith("mask.")}


def test_a_dropped_sense_is_all_zeros_from_its_decision_on_and_the_others_are_as_ever():
    env, whole = Masked(Room(), {"images.main": 2, "state": 3}), Room()
    for _ in range(2):  # each episode anew
        pairs = [(env.reset(seed=0)[0], whole.reset(seed=0)[0])]
        pairs += [(env.step(ACTION + 9)[0], whole.step(ACTION + 9)[0]) for _ in range(4)]
        for decision, (seen, there) in enumerate(pairs):
            assert env.observation_space.contains(seen)
            np.testing.assert_array_equal(seen[SIDE], there[SIDE])
            for name, first in (("images.main", 2), ("state", 3)):
                np.testing.assert_array_equal(seen[f"mask.{name}"], [decision < first])
                np.testing.assert_array_equal(
                    seen[f"observation.{name}"], there[f"observation.{name}"] * np.uint8(decision < first)
                )
            assert seen["mask.images.side"].all()


def test_dropped_words_are_blank():
    env = make(TaskConfig("cartpole-swingup"), senses=Senses(("state", "language")), drop={"language": 1})
    seen = [env.reset(seed=0)[0], env.step(ACTION)[0], env.reset(seed=0)[0]]
    instruction = INSTRUCTIONS["cartpole-swingup"]
    assert [one["observation.language"] for one in seen] == [instruction, " ", instruction]
    assert [bool(one["mask.language"][0]) for one in seen] == [True, False, True]
    assert all(env.observation_space.contains(one) for one in seen)
    senses = {"observation.state": (5,), "observation.language": (256,)}
    words = "observation.language"
    batches = [{key: (x,) if key == words else x[None] for key, x in one.items()} for one in seen]
    vectors = [observe(batch, senses).values[words] for batch in batches]
    assert torch.equal(vectors[0], vectors[2])
    assert vectors[0].any()
    assert torch.equal(vectors[1], torch.zeros_like(vectors[0]))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"images.nose": 3}, "^images.nose: no sense of this environment, which has images.main, images.side, state$"),
        ({"state": -1}, "^state: missing from control step -1 on; at least 0"),
    ],
)
def test_what_cannot_be_dropped_is_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        Masked(Room(), schedule)


def test_a_dark_camera_is_missing_while_it_is_dark_and_named_once():
    env = Masked(Room())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        seen = masks(env, 90, *[0] * (PATIENCE - 1), 90, 0)
    assert seen["mask.images.main"] == [True, True, *[False] * (PATIENCE - 1), True, False]
    assert all(seen["mask.images.side"])
    assert not said  # never PATIENCE frames in a row
    with pytest.warns(UserWarning, match=f"^images.main: {PATIENCE} frames in a row of one colour") as said:
        for _ in range(2):
            masks(env, *[0] * 3 * PATIENCE)
    assert len(said) == 1
    assert "\n" not in str(said[0].message)


def test_noise_is_no_picture_and_a_bright_wall_none_either():
    dim = Masked(Room())
    assert masks(dim, 5)["mask.images.main"] == [True, False]
    dim.unwrapped.noise = 50
    assert masks(dim, 3, 60)["mask.images.main"] == [True, False, True]


def test_a_dropped_camera_stays_missing_whatever_it_shows_and_a_dark_one_too():
    env = Masked(Room(), {"images.main": 2})
    assert masks(env, 0, 200)["mask.images.main"] == [True, False, False]


def test_masks_come_through_a_vector():
    vector = gymnasium.vector.SyncVectorEnv(
        [lambda: Masked(Room(), {"images.main": 1})] * 2, autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED
    )
    seen = [vector.reset(seed=[0, 1])[0], vector.step(np.full((2, 1), 99, np.float32))[0]]
    assert [observation["mask.images.main"].tolist() for observation in seen] == [[[True]] * 2, [[False]] * 2]
    assert seen[1]["mask.images.side"].dtype == np.bool_
