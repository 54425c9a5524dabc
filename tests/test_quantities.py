"""Laws of the named quantities: the simulator's own numbers, recorded with what they belong to, never perceived."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from envs.make import make
from envs.senses import Senses
from envs.settings import TaskConfig
from envs.task_env import EnvironmentFault, TaskEnv
from envs.wrappers import Reporting
from policies.guidance.compiling import in_order, numbered
from policies.settings import QUANTITIES
from policies.training.trainer import novelty
from worldmodel.errors import UserError
from worldmodel.observation import Observation
from worldmodel.replay import Replay
from worldmodel.senses import STATE_KEY

OFF = gymnasium.vector.AutoresetMode.DISABLED
TRUE = {
    ("reacher-easy", "tip.x", "m"): lambda env: env.physics.named.data.geom_xpos["finger", "x"],
    ("walker-walk", "speed", ""): lambda env: env.physics.horizontal_velocity(),
    ("walker-walk", "torso_height", ""): lambda env: env.physics.torso_height(),
    ("so101-touch", "success", ""): lambda env: 0,
    ("so101-touch", "tip.z", "m"): lambda env: env.data.site("gripperframe").xpos[2],
    ("so101-touch", "elbow_flex", "rad"): lambda env: env.data.joint("elbow_flex").qpos[0],
    ("so101-touch", "shoulder_lift.pos", ""): lambda env: np.degrees(env.data.joint("shoulder_lift").qpos[0]),
    ("so101-touch", "gripper.pos", ""): lambda env: np.interp(
        env.data.joint("gripper").qpos[0], (env.action_space.low[5], env.action_space.high[5]), (0, 100)
    ),
    ("HalfCheetah-v5", "rootx.velocity", "m/s"): lambda env: env.data.joint("rootx").qvel[0],
    ("Pendulum-v1", "state[2]", ""): lambda env: env.state[1],
}


@pytest.mark.parametrize(("task", "name", "unit"), TRUE)
def test_they_are_the_simulators_own_numbers_now(task, name, unit):
    env = make(TaskConfig(task) if task.islower() else TaskConfig("gym", task))
    env.reset(seed=0)
    for _ in range(3):
        told = env.step(np.full(env.action_space.shape, 0.7, np.float32))[-1][QUANTITIES]
    true = TRUE[task, name, unit](env.unwrapped)
    assert env.metadata[QUANTITIES][name] == unit and told[[*env.metadata[QUANTITIES]].index(name)] == np.float32(true)
    env.close()


class Told(gymnasium.Env):
    """Its state is (episode, step), which it tells, and what is not finite; every third episode has a fault."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)
    observation_space = spaces.Dict({"at": spaces.Box(-99, 99, (2,)), "to": spaces.Box(-9, 9, (1,))})
    episode = clock = 0

    def reset(self, *, seed=None, options=None):
        self.episode, self.clock = self.episode + 1, 0
        return self.see(), {}

    def step(self, action):
        self.clock += 1
        if self.episode % 3 == 0 and self.clock == 2:
            raise OSError("gone")
        return self.see(), 1.0, False, self.clock == 4, {}

    def see(self):
        return {"at": np.array([self.episode, self.clock], np.float32), "to": np.zeros(1, np.float32)}

    def quantities(self):
        return {"clock": self.clock, "never": np.inf, "episode": self.episode}


def told(env=None, **task):
    return TaskEnv(env or Told(), TaskConfig("gym", "Told-v0", **task), Senses())


def test_what_the_environment_tells_itself_comes_first_and_must_be_known_at_once():
    walker = gymnasium.make("dm_control/walker-walk-v0")
    walker.unwrapped.quantities = lambda: {"speed": 7.0}
    env = told(walker)
    assert next(iter(env.metadata[QUANTITIES])) == "speed" and env.reset()[1][QUANTITIES][0] == 7
    walker.unwrapped.quantities = lambda: {"speed": walker.unwrapped.never}
    with pytest.raises(UserError, match=r"^quantities\(\): AttributeError: .*; it is called before the first reset"):
        told(walker)


def test_each_row_of_the_replay_has_those_of_its_observation_over_resets_and_faults(toys):
    trainer = toys.trainer(gymnasium.vector.SyncVectorEnv([lambda: Reporting(told())] * 2, autoreset_mode=OFF))
    toys.run(trainer, 60)
    replay, held = trainer.replay, trainer.replay.filled.min()
    state, kept, final = (each[:, :held] for each in (replay.seen[STATE_KEY], replay.quantities, replay.final))
    assert torch.equal(kept[..., [2, 0]], state[..., :2]) and kept[..., 1].isnan().all()
    assert (final & (state[..., 1] == 1)).sum() > 2 and trainer.learner.model.senses == {STATE_KEY: (3,)}


def test_a_component_is_left_out_and_an_unknown_one_refused_and_no_reward_is_none():
    env = told(exclude=("to",), reward="none")
    env.reset()
    assert env.observation_space[STATE_KEY].shape == (2,) and env.step(np.zeros(1, np.float32))[1] == 0
    with pytest.raises(UserError, match=r"^task\.exclude=\[to,too\]: too: one of at, to$"):
        told(exclude=("to", "too"))


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3))
def test_angles_become_cosines_and_sines_alike_after_a_turn_and_nothing_else_does(numbers):
    env, raw = told(cos_sin=("at",)), {"at": np.array(numbers[:2]), "to": np.array(numbers[2:])}
    turned = raw | {"at": raw["at"] + np.array([2, -20]) * np.pi}
    state = env.state(raw)
    assert env.observation_space[STATE_KEY].shape == (5,) and np.allclose(state, env.state(turned), atol=1e-3)
    assert np.allclose(np.arctan2(state[3:], state[:2]), np.arctan2(np.sin(raw["at"]), np.cos(raw["at"])), atol=1e-5)
    assert state[2] == raw["to"]


def test_angles_that_are_not_there_are_refused_and_one_that_is_not_finite_is_named():
    for keys, says in (({"cos_sin": ("at", "up")}, "up: one of at, to"), ({"exclude": ("at",)}, "at: one of to")):
        with pytest.raises(UserError, match=rf"^task\.cos_sin=\[at.*\]: {says}$"):
            told(**{"cos_sin": ("at",)} | keys)
    with pytest.raises(UserError, match=r"^task\.cos_sin=\[at\]: at: its observation has no named components$"):
        make(TaskConfig("gym", "Pendulum-v1", cos_sin=("at",)))
    env = told(cos_sin=("at",))
    env.env.see = lambda: {"at": np.array([0, np.inf], np.float32), "to": np.zeros(1, np.float32)}
    with pytest.raises(EnvironmentFault, match=r"observation\.state\[1\] \(cos/at\[1\]\) is nan"):
        env.reset()


def test_novelty_is_larger_where_the_model_predicts_worse_and_one_on_average(toys):
    model, token = toys.tiny_model(3, 2), torch.rand(1, 8, 2)
    seen = Observation.of({STATE_KEY: (3,)}, {STATE_KEY: torch.randn(2, 8, 3)})
    found = novelty(model, seen, token)
    now, then = (model.encode(seen.map(lambda x, t=t: x[t])) for t in range(2))
    errors = (model.next(model.transition_features(now, token[0])) - then).square().mean(-1)
    assert torch.equal(found[0].argsort(), errors.argsort()) and torch.isclose(found.mean(), torch.ones(()))
    assert (found >= 0).all()


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(4, 20))
def test_the_moments_of_a_ring_that_wrapped_are_in_order_and_numbered(lengths, capacity):
    replay, serial, both = Replay(capacity, 2, {STATE_KEY: (2,)}, 1), [], torch.ones(2, dtype=torch.bool)
    for episode, length in enumerate(lengths):
        see = [
            Observation.of({STATE_KEY: (2,)}, {STATE_KEY: torch.full((2, 2), 100.0 * episode + t)}) for t in range(7)
        ]
        replay.start(both, see[0])
        for step in range(length):
            replay.add(see[step + 1], torch.zeros(2, 1), torch.zeros(2), ~both)
            serial.append(100 * episode + step)
    env, row = in_order(replay)
    now = replay.seen[STATE_KEY][env, row, 0].int().view(2, -1)
    assert now.tolist() == [serial[len(serial) - now.shape[1] :]] * 2 and 2 * now.shape[1] == replay.steps
    number, step = (each.view(2, -1).tolist() for each in numbered(replay, env, row))
    episodes = [each // 100 for each in now[0].tolist()]
    order = list(dict.fromkeys(episodes))
    for e in range(2):
        assert number[e] == [e * len(order) + order.index(each) for each in episodes]
        assert step[e] == [i - episodes.index(each) for i, each in enumerate(episodes)]
