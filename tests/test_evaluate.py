"""Laws of an evaluation: what it reports, that it can be repeated, that a budget is kept, and when it succeeds."""

import functools
import json
import shutil
import types
import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from configs.command import composed
from configs.runs.episodes import TOGETHER, EvaluationEpisodes, side_by_side
from configs.runs.evaluation import Evaluation
from configs.runs.loading import Loaded
from configs.runs.training import Training
from configs.schema import EvaluateConfig
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.tokens.curves import Curve
from policies.training.episodes import play
from policies.training.rollouts import Rollout, rollout, success_rates
from worldmodel.errors import UserError
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY
from worldmodel.settings import TokenConfig
from worldmodel.strict import ConfigError, build

TASK = TaskConfig("gym", "Pendulum-v1", max_control_steps=20)
WALKER = TaskConfig("walker-run", max_control_steps=5)
WALKERS = TaskConfig("multi", names=("walker-walk", "walker-run"), max_control_steps=5)
SHARED = {
    *("task", "seed", "env_steps", "return_mean", "return_std", "episodes", "train_seconds", "env_steps_per_second"),
    *("gflop_per_control_step", "decisions_per_second", "parameters", "device", "versions"),
}


@pytest.fixture(scope="module")
def run(toys, tmp_path_factory):
    """A finished run's folder."""
    own = "task=gym", "task.id=Pendulum-v1", "task.max_control_steps=20", "steps=200", "evaluation.every=0"
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    keys = [*toys.tiny_keys, *own, "learning.updates_per_token=0.2", "evaluation.episodes=1"]
    Training.begin(composed("train", keys), folder).run()
    return folder


def evaluation(checkpoint, planner=None, **keys):
    """An evaluation, its few keys checked."""
    plain = composed("evaluate", []) | {"checkpoint": str(checkpoint), "compile": "false", "episodes": 3} | keys
    return Evaluation.begin(build(EvaluateConfig, plain | {"planner": plain["planner"] | (planner or {})}))


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    """The summary of an evaluation, and the folder it left."""
    folder = tmp_path_factory.mktemp("evaluated")
    return evaluation(run).run(folder), folder


def test_it_reports_what_training_does_and_more(run, evaluated):
    summary, folder = evaluated
    assert {p.name for p in folder.iterdir()} == {"summary.json", "returns.png"}
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert not SHARED - set(summary)
    assert (summary["task"], summary["env_steps"], summary["seed"], summary["episodes"]) == ("Pendulum-v1", 200, 100, 3)
    asked = [summary[name] for name in ("drop_senses", "drop_at_step", "instruction")]
    assert asked == [[], 0, ""]
    for name, returns in (("return", summary["returns"]), ("policy_return", summary["policy_returns"])):
        low, high = summary[f"{name}_interval"]
        assert min(returns) <= low <= summary[f"{name}_mean"] <= high <= max(returns)
        assert summary[f"{name}_mean"] == pytest.approx(np.mean(returns), abs=2e-3)
        assert summary[f"{name}_std"] == pytest.approx(np.std(returns), abs=2e-3)
    assert summary["plan_ms_p50"] is summary["plan_ms_p99"] is summary["decisions_per_second"] is None
    assert 0 < summary["plan_gflop"] < 1
    trained = json.loads((run / "summary.json").read_text())
    for name in ("train_seconds", "parameters", "device", "versions"):
        assert summary[name] == trained[name]
    # Rounded twice: the update on its own first.
    assert summary["gflop_per_control_step"] == pytest.approx(trained["gflop_per_control_step"], abs=1.1e-3)


def test_timing_measures_decisions_and_changes_no_return(run, evaluated, tmp_path):
    summary = evaluation(run, timing=True).run(tmp_path)
    assert 0 < summary["plan_ms_p50"] <= summary["plan_ms_p99"] and summary["decisions_per_second"] > 0
    assert summary["returns"] == evaluated[0]["returns"]


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"drop_senses": ["state"]}, r"drop_senses=\[state\]: some of what it perceives, state; not all"),
        ({"drop_senses": ["images.main"]}, r"drop_senses=\[images.main\]: images.main: not among what it perceives"),
        ({"drop_senses": ["state", "state"]}, r"drop_senses=\[state,state\]: each sense once"),
        ({"drop_at_step": 7}, "drop_at_step=7: only with drop_senses="),
        ({"instruction": "go on"}, r"instruction=: only for a checkpoint with senses="),
        ({"planner": {"samples": 0}}, r"planner\.\w*samples=\d: "),
        ({"planner": {"samples": 2.5}}, "planner.samples=2.5: a whole number"),
        ({"planner": {"sample": 3}}, "planner.sample: no such key; did you mean planner.samples"),
        ({"checkpoint": ""}, "checkpoint=: a run folder or a checkpoint"),
    ],
)
def test_what_this_checkpoint_cannot_be_evaluated_with_is_refused(run, keys, fault):
    with pytest.raises(ConfigError, match=f"^{fault}"):
        evaluation(**({"checkpoint": run} | keys))


def test_words_alone_are_not_enough_to_leave_and_a_sense_fails_within_an_episode(untaught, tmp_path):
    """As in training: they show nothing of what happens."""
    instructed = untaught(tmp_path / "run", WALKER, senses=("state", "language"))
    with pytest.raises(ConfigError, match=r"^drop_senses=\[state\]: .*language, state; not all, words do not count$"):
        evaluation(instructed, drop_senses=["state"])
    drop = {"drop_senses": ["language"], "episodes": 1}
    with pytest.raises(ConfigError, match=r"^drop_at_step=5: below 5, an episode's control steps$"):
        evaluation(instructed, drop_at_step=5, **drop).run(tmp_path / "late")
    assert evaluation(instructed, drop_at_step=4, **drop).run(tmp_path / "in time")["drop_at_step"] == 4


def test_it_can_be_repeated_and_another_seed_is_another_sample(run, evaluated, tmp_path):
    again = evaluation(run / "checkpoints" / "last").run(tmp_path)
    other = evaluation(run, seed=101).run(tmp_path)
    for name in ("returns", "policy_returns"):
        assert again[name] == evaluated[0][name]
        assert other[name] != evaluated[0][name]


def test_the_planner_can_be_changed_and_only_it(run, evaluated, tmp_path):
    wide = evaluation(run, {"samples": 32, "iterations": 4})
    assert wide.planner == replace(wide.loaded.spec.planner, samples=32, iterations=4)
    summary = wide.run(tmp_path)
    assert summary["policy_returns"] == evaluated[0]["policy_returns"]
    assert summary["returns"] != evaluated[0]["returns"]
    assert summary["plan_gflop"] > 4 * evaluated[0]["plan_gflop"]
    assert summary["planner"]["samples"] == 32


def test_decisions_end_at_a_deadline(run, evaluated, tmp_path):
    hurried = evaluation(run, {"deadline_ms": 0.001}, episodes=1).run(tmp_path)
    assert hurried["planner"]["deadline_ms"] == 0.001
    assert 0 < hurried["imagined_per_plan"] < evaluated[0]["imagined_per_plan"]


def test_one_episode_has_no_interval_a_lone_checkpoint_no_history_and_a_film_is_made_or_the_reason_given(
    run, tmp_path, capsys
):
    """Pendulum draws itself, with pygame, which we do not install."""
    alone = tmp_path / "a" / "b" / "moved"
    shutil.copytree(run / "checkpoints" / "last", alone)
    (alone / "progress.json").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        summary = evaluation(alone, episodes=1, video=True).run(tmp_path / "out")
    for name in ("return_interval", "train_seconds", "env_steps_per_second", "gflop_per_control_step"):
        assert summary[name] is None
    assert (tmp_path / "out" / "rollout.mp4").exists() != ("no video: " in capsys.readouterr().err)
    assert all((tmp_path / "out" / name).stat().st_size for name in ("plan.svg", "plan.png", "plan.json"))


def test_films_of_the_best_median_and_worst_episode_repeat_them_to_the_bit(run, tmp_path, monkeypatch):
    drawn, played = [], []

    def played_too(episodes, *rest, **more):
        play(episodes, *rest, **more)
        played.append(episodes.returns)

    monkeypatch.setattr("configs.runs.film.frame", lambda *_: drawn.append(np.zeros((240, 320, 3), "u1")) or drawn[-1])
    monkeypatch.setattr("configs.runs.film.play", played_too)
    monkeypatch.setattr("configs.runs.evaluation.side_by_side", lambda deadline: 2)
    wanted = {"video": True, "video_episodes": ["worst", "best", "median"]}
    returns = np.array(evaluation(run, episodes=5, **wanted).run(tmp_path / "out")["returns"])
    numbers = np.argsort(returns)[[0, -1, 2]]
    films = {path.parent.name for path in (tmp_path / "out").glob("*/rollout.mp4")}
    named = zip(wanted["video_episodes"], numbers, strict=True)
    assert films == {f"{which}-episode{n}-return{returns[n]:.0f}" for which, n in named}
    assert (numbers >= 2).any()  # of a batch other than the first
    again = [each[n % 2] for each, n in zip(played, numbers, strict=True)]
    assert again == [pytest.approx(returns[n], abs=1e-3) for n in numbers] and len(drawn) == 3 * 21
    with pytest.raises(ConfigError, match=r"^video_episodes=: not with planner.deadline_ms="):
        evaluation(run, {"deadline_ms": 1}, **wanted)
    with pytest.raises(UserError, match=r"^video_episodes=\[best\]: only with video=true$"):
        evaluation(run, video_episodes=["best"])


@pytest.mark.parametrize("task", [WALKER, WALKERS], ids=["a task", "two tasks"])
def test_a_film_says_what_the_episodes_say(task):
    spec = types.SimpleNamespace(senses={STATE_KEY: (24,), LANGUAGE_KEY: (256,)})
    config = EvaluateConfig(checkpoint="run", drop_senses=("state",), drop_at_step=1, instruction="stay up")
    episodes = Evaluation(config, None, Loaded(None, task, spec, None), None).episodes(render=True, together=1)
    (env,) = episodes.env.envs
    (seed,) = [seed for seed in range(9) if env.reset(seed=seed)[1].get("task", "walker-run") == "walker-run"][:1]
    observation, _ = env.reset(seed=seed)
    env.close()
    assert observation[LANGUAGE_KEY] == "stay up"
    assert bool(observation["mask.state"])


@pytest.mark.parametrize("task", [TASK, WALKERS], ids=["a task", "two tasks"])
def test_episodes_are_the_same_however_many_run_together_and_the_first_of_many_are_those_of_few(toys, task):
    played = []
    for count, together in ((5, 5), (5, 2), (5, 1), (3, 2)):
        episodes = EvaluationEpisodes(task, count, together)
        space = episodes.env.single_observation_space[STATE_KEY], episodes.env.single_action_space
        state, action = (each.shape[0] for each in space)
        curve = Curve.of_token(TokenConfig(), action)
        alone = Agent(toys.tiny_model(state, action), curve, None, torch.Generator().manual_seed(0))
        played.append(episodes.play(alone, 3))
        assert len(episodes.env.envs) == together
        assert episodes.steps == task.max_control_steps * -(-count // together)
        episodes.close()
    for few in played[1:]:
        count = len(few.returns)
        np.testing.assert_allclose(few.returns, played[0].returns[:count], rtol=1e-3)
        assert (few.lengths.tolist(), few.tasks) == (played[0].lengths[:count].tolist(), played[0].tasks[:count])
    assert len(set(np.round(played[0].returns, 3))) == 5
    assert (side_by_side(5.0), side_by_side(0.0)) == (1, TOGETHER)  # a deadline is of each environment


class Scripted(gymnasium.Env):
    """Succeeds at the steps that `script` says, ends after it, and then would always succeed, if asked."""

    observation_space = spaces.Dict({STATE_KEY: spaces.Box(-np.inf, np.inf, (3,), np.float32)})
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, script: str):
        self.script, self.clock, self.episodes = script, 0, 0

    def reset(self, *, seed=None, options=None):
        self.clock, self.episodes = 0, self.episodes + 1
        return {STATE_KEY: np.zeros(3, np.float32)}, {"is_success": False}

    def step(self, action):
        self.clock += 1
        success = self.episodes > 1 or self.script[self.clock - 1] == "y"
        seen = {STATE_KEY: np.full(3, self.clock, np.float32)}
        return seen, 1.0, False, self.clock == len(self.script), {"is_success": success}


def scripted(*scripts):
    return gymnasium.vector.SyncVectorEnv(
        [functools.partial(Scripted, script) for script in scripts],
        autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
    )


class Still(Agent):
    """Does nothing."""

    def __init__(self):
        self.model = types.SimpleNamespace(senses={STATE_KEY: (3,)})

    def reset(self, ended):
        pass

    def act(self, observation, own):
        return torch.zeros(len(observation), 2)


def test_an_episode_succeeds_at_any_step_of_its_own_where_the_task_says(toys):
    played = rollout(scripted("nynn", "nn", "nnny", "nnn"), Still(), 0, 10)
    np.testing.assert_array_equal(played.lengths, [4, 2, 4, 3])
    np.testing.assert_array_equal(played.successes, [True, False, True, False])
    half, whole = played, Rollout(np.zeros(2), np.zeros(2, int), np.array([True, True]))
    assert success_rates(half, whole) == ", success 50% (25% at the end), policy alone 100%"
    unknown = rollout(toys.slides(3, 3), Still(), 0, 10)
    assert unknown.successes is unknown.success_rate is None and success_rates(unknown, unknown) == ""


def test_an_episode_succeeds_at_its_end_if_it_does_for_half_a_second_or_all_of_it(toys):
    for rate, ends in (
        (4, [False, True, True, False]),
        (2, [False, True, True, False]),
        (8, [False, False, True, False]),
    ):
        env = scripted("nynn", "nnyy", "yy", "yyyn")
        env.metadata["render_fps"] = rate
        assert rollout(env, Still(), 0, 10).held.tolist() == ends


def test_a_training_episode_says_whether_it_succeeded_and_the_next_begins_anew(toys):
    assert [end["episode_success"] for end in toys.run(toys.trainer(scripted("nnn")), 9)] == [0, 1, 1]
    assert [end["episode_success"] for end in toys.run(toys.trainer(toys.slides(3)), 6)] == [None, None]
