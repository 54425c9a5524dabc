"""Laws of an evaluation: what it reports, that it can be repeated, and that a budget is kept."""

import json
import shutil
import types
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

import configs.runs.evaluation
import configs.runs.pace
from configs.runs.episodes import TOGETHER, EvaluationEpisodes
from configs.runs.evaluation import Evaluation
from configs.runs.loading import Loaded
from configs.runs.pace import measure
from configs.runs.training import Training
from configs.schema import EvaluateConfig, TrainConfig
from configs.strict import ConfigError, build
from envs.benchmark.figures import draw_paired_strips
from envs.instructions import PARAPHRASES
from envs.senses import Senses
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.storage.checkpoint import find_checkpoint
from policies.storage.folders import FolderError
from policies.tokens.curves import Curve
from worldmodel import planner as planning
from worldmodel.planner import Planner
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY
from worldmodel.settings import PlannerConfig, TokenConfig

TASK = TaskConfig("gym", "Pendulum-v1", max_control_steps=40)
WALKER = TaskConfig("walker-run", max_control_steps=5)
WALKERS = TaskConfig("multi", names=("walker-walk", "walker-run"), max_control_steps=5)
SHARED = {
    *("task", "seed", "env_steps", "return_mean", "return_std", "episodes", "train_seconds", "env_steps_per_second"),
    *("gflop_per_control_step", "decisions_per_second", "parameters", "device", "versions"),
}


@pytest.fixture(scope="module")
def run(toys, tmp_path_factory):
    """A finished run's folder."""
    keys = asdict(TrainConfig(task=TASK))
    for key in (*toys.tiny_keys, "steps=300", "evaluation.every=0"):
        name, _, value = key.partition("=")
        *groups, last = name.split(".")
        place = keys
        for group in groups:
            place = place[group]
        place[last] = value if isinstance(place[last], str) else json.loads(value)
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    Training.begin(keys, folder).run()
    return folder


def evaluation(checkpoint, planner=None, **keys):
    """An evaluation, its few keys checked."""
    plain = asdict(EvaluateConfig()) | {"checkpoint": str(checkpoint), "compile": "false", "episodes": 3} | keys
    plain["planner"] = plain["planner"] | (planner or {})
    return Evaluation.begin(build(EvaluateConfig, plain))


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
    assert (summary["task"], summary["env_steps"], summary["seed"], summary["episodes"]) == ("Pendulum-v1", 300, 100, 3)
    for name, returns in (("return", summary["returns"]), ("policy_return", summary["policy_returns"])):
        low, high = summary[f"{name}_interval"]
        assert min(returns) <= low <= summary[f"{name}_mean"] <= high <= max(returns)
        assert summary[f"{name}_mean"] == pytest.approx(np.mean(returns), abs=2e-3)
        assert summary[f"{name}_std"] == pytest.approx(np.std(returns), abs=2e-3)
    assert 0 < summary["plan_ms_p50"] <= summary["plan_ms_p99"]
    assert 0 < summary["plan_gflop"] < 1
    trained = json.loads((run / "summary.json").read_text())
    for name in ("train_seconds", "parameters", "device", "versions"):
        assert summary[name] == trained[name]
    # Rounded twice: the update on its own first.
    assert summary["gflop_per_control_step"] == pytest.approx(trained["gflop_per_control_step"], abs=1.1e-3)


def test_it_says_under_what_it_was_evaluated(run, tmp_path):
    summary = evaluation(run, episodes=1).run(tmp_path)
    said = {name: summary[name] for name in ("drop", "drop_at", "sentence", "paraphrases")}
    assert said == {"drop": [], "drop_at": 0, "sentence": "", "paraphrases": False}
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_a_moment_is_that_of_a_sense_that_fails():
    with pytest.raises(ValueError, match=r"^drop_at=7: only with drop=, the senses that fail then$"):
        EvaluateConfig(drop_at=7)


@pytest.mark.parametrize(
    ("drop", "fault"),
    [
        (["state"], r"drop=\[state\]: some of what it perceives, state; not all"),
        (["images.main"], r"drop=\[images.main\]: images.main: not among what it perceives, state"),
        (["state", "main"], r"drop=\[state,main\]: main: not among what it perceives, state"),
        (["state", "state"], r"drop=\[state,state\]: each sense once"),
    ],
)
def test_what_is_dropped_must_be_perceived_and_leave_something(run, drop, fault):
    with pytest.raises(ConfigError, match=f"^{fault}$"):
        evaluation(run, drop=drop)


@pytest.mark.parametrize("said", [{"sentence": "go on"}, {"paraphrases": True}])
def test_a_checkpoint_without_ears_is_told_nothing(run, said):
    with pytest.raises(ConfigError, match=r"^sentence=, paraphrases=: only for a checkpoint with senses="):
        evaluation(run, **said)


def test_words_alone_are_not_enough_to_leave(untaught, tmp_path):
    """As in training: they show nothing of what happens."""
    heard = untaught(tmp_path, WALKER, senses=("state", "language"))
    with pytest.raises(ConfigError, match=r"^drop=\[state\]: .*language, state; not all, words do not count$"):
        evaluation(heard, drop=["state"])
    assert evaluation(heard, drop=["language"]).config.drop == ("language",)


def test_a_sense_that_would_fail_only_after_the_end_is_no_test_of_its_loss(untaught, tmp_path):
    heard = untaught(tmp_path / "run", WALKER, senses=("state", "language"))
    drop = {"drop": ["language"], "episodes": 1}
    with pytest.raises(ConfigError, match=r"^drop_at=5: below 5, an episode's control steps$"):
        evaluation(heard, drop_at=5, **drop).run(tmp_path / "late")
    assert evaluation(heard, drop_at=4, **drop).run(tmp_path / "in time")["drop_at"] == 4


def test_it_can_be_repeated_and_another_seed_is_another_sample(run, evaluated, tmp_path):
    again = evaluation(run / "checkpoints" / "last").run(tmp_path)
    other = evaluation(run, seed=101).run(tmp_path)
    for name in ("returns", "policy_returns"):
        assert again[name] == evaluated[0][name]
        assert other[name] != evaluated[0][name]


def test_the_planner_can_be_changed_and_only_it(run, evaluated, tmp_path):
    wide = evaluation(run, {"samples": 32, "iterations": 4})
    assert wide.planner == replace(wide.spec.planner, samples=32, iterations=4)
    summary = wide.run(tmp_path)
    assert summary["policy_returns"] == evaluated[0]["policy_returns"]
    assert summary["returns"] != evaluated[0]["returns"]
    assert summary["plan_gflop"] > 4 * evaluated[0]["plan_gflop"]
    assert summary["planner"]["samples"] == 32


@pytest.mark.parametrize(
    ("planner", "said"),
    [
        ({"samples": 0}, r"planner\.\w*samples=\d: "),
        ({"samples": 2.5}, "planner.samples=2.5: a whole number"),
        ({"sample": 3}, "planner.sample: no such key; did you mean planner.samples"),
        ({"deadline_ms": -1.0}, r"planner\.deadline_ms=-1\.0: at least 0"),
        ({"budget": "fixed"}, "^planner.budget: removed: "),
        ({"return_scale_floor": 0.0}, r"planner\.return_scale_floor=0\.0: above 0"),
    ],
)
def test_a_planner_that_cannot_be_is_refused(run, planner, said):
    with pytest.raises(ConfigError, match=said):
        evaluation(run, planner)


def test_one_episode_has_no_interval_and_a_lone_checkpoint_no_history(run, tmp_path):
    alone = tmp_path / "a" / "b" / "moved"
    shutil.copytree(run / "checkpoints" / "last", alone)
    (alone / "progress.json").unlink()
    summary = evaluation(alone, episodes=1).run(tmp_path / "out")
    for name in ("return_interval", "train_seconds", "env_steps_per_second", "gflop_per_control_step"):
        assert summary[name] is None


def test_every_way_to_name_a_checkpoint_means_the_same(run):
    newest = (run / "checkpoints" / "last").resolve()
    names = (run, run / "checkpoints", run / "checkpoints" / "last", newest)
    assert [find_checkpoint(name).resolve() for name in names] == [newest] * 4
    older = next(p for p in (run / "checkpoints").iterdir() if p.name.isdigit() and p != newest)
    assert find_checkpoint(older) == older
    for name in (run.parent, run / "nothing"):
        with pytest.raises(FolderError, match=r"checkpoint="):
            find_checkpoint(name)


def test_a_film_is_made_or_the_reason_said(run, tmp_path, capsys):
    """Pendulum draws itself, with pygame, which we do not install."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        evaluation(run, video=True, episodes=1).run(tmp_path)
    assert (tmp_path / "rollout.mp4").exists() != ("no video: " in capsys.readouterr().err)
    assert all((tmp_path / name).stat().st_size for name in ("plan.svg", "plan.png", "plan.json"))


@pytest.mark.parametrize(
    ("keys", "said"), [({"sentence": "stay up"}, "stay up"), ({"paraphrases": True}, PARAPHRASES["walker-run"][0])]
)
@pytest.mark.parametrize("task", [WALKER, WALKERS], ids=["a task", "two tasks"])
def test_a_film_says_what_the_episodes_say(task, keys, said):
    heard = types.SimpleNamespace(senses={STATE_KEY: (24,), LANGUAGE_KEY: (256,)})
    config = EvaluateConfig(checkpoint="run", drop=("state",), drop_at=1, **keys)
    env = Evaluation(config, None, Loaded(None, task, heard, None), None)._filmed(task)
    (seed,) = [seed for seed in range(9) if env.reset(seed=seed)[1].get("task", "walker-run") == "walker-run"][:1]
    observation, _ = env.reset(seed=seed)
    env.close()
    assert observation[LANGUAGE_KEY] == said
    assert bool(observation["mask.state"])


def agent(model, planner, length=1):
    """An agent that plans."""
    curve = Curve.of_token(TokenConfig(length, 1, 0), 1)
    return Agent(model, curve, Planner(model, 0.9, planner), torch.Generator().manual_seed(0))


def test_a_deadline_of_the_settings_is_kept(toys, monkeypatch):
    """By a clock of its own: a plan takes until the deadline, and at most one iteration longer."""
    clock, lasting, began = [0.0], np.random.default_rng(0), []
    fake = types.SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr(planning, "time", fake)
    monkeypatch.setattr(configs.runs.pace, "time", fake)
    config = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=50, horizon=1, deadline_ms=5.0)
    chosen = agent(toys.tiny_model(3, 1), config)
    refine = chosen.planner._refine

    def slow(*given):
        began.append(clock[0])
        clock[0] += 0.001 * lasting.uniform(0.2, 3)
        return refine(*given)

    chosen.planner._refine = slow
    pace = measure(TASK, Senses(), chosen, 60)
    assert 5 <= pace.percentile(0) <= pace.percentile(99) <= 5 + 3
    assert 60 < len(began) < 60 * 25


def test_under_a_deadline_the_planner_plays_in_one_environment_at_a_time(run, monkeypatch):
    asked = []

    def noted(task, count, together, *given, **keys):
        asked.append(together)
        return EvaluationEpisodes(task, count, together, *given, **keys)

    monkeypatch.setattr(configs.runs.evaluation, "EvaluationEpisodes", noted)
    chosen = evaluation(run, {"deadline_ms": 1000.0}, episodes=2)
    assert len(chosen._episodes(True)[0].returns) == len(chosen._episodes(False)[0].returns) == 2
    assert asked == [1, TOGETHER]


def test_a_pace_counts_decisions_and_not_steps(toys):
    config = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=1, horizon=1)
    chosen, calls = agent(toys.tiny_model(3, 1), config, length=4), []
    decide = chosen.decide
    chosen.decide = lambda *given: calls.append(1) or decide(*given)
    pace = measure(TASK, Senses(), chosen, 30)
    assert len(pace.milliseconds) == 30
    assert len(calls) == 35
    assert pace.percentile(0) <= 1000 / pace.per_second <= pace.percentile(100)


@pytest.mark.parametrize("task", [TASK, WALKERS], ids=["a task", "two tasks"])
def test_episodes_are_the_same_however_many_run_together(toys, task):
    first, played = [], []
    for together in (5, 2, 1):
        episodes = EvaluationEpisodes(task, 5, together, lambda envs, number: first.append((len(envs), number)))
        state, action = (
            space.shape[0]
            for space in (episodes.env.single_observation_space[STATE_KEY], episodes.env.single_action_space)
        )
        curve = Curve.of_token(TokenConfig(), action)
        alone = Agent(toys.tiny_model(state, action), curve, None, torch.Generator().manual_seed(0))
        played.append(episodes.play(alone, 3))
        assert len(episodes.env.envs) == together
        assert episodes.steps == task.max_control_steps * -(-5 // together)
        episodes.close()
    assert first == [(5, 0), (2, 0), (2, 2), (1, 4), *((1, number) for number in range(5))]
    for few in played[1:]:
        np.testing.assert_allclose(few.returns, played[0].returns, rtol=1e-3)
        assert (few.lengths.tolist(), few.tasks) == (played[0].lengths.tolist(), played[0].tasks)
    assert len(set(np.round(played[0].returns, 3))) == 5


def test_the_first_of_many_episodes_are_those_of_few(toys):
    config = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=2, horizon=2)
    returns = []
    for count in (2, 4):
        episodes = EvaluationEpisodes(TASK, count, 2)
        returns.append(episodes.play(agent(toys.tiny_model(3, 1), config), 3).returns)
        episodes.close()
    np.testing.assert_array_equal(returns[0], returns[1][:2])


def test_strips_show_every_episode_and_their_means():
    figure = draw_paired_strips({"a": np.array([1.0, 2.0, 6.0]), "b": np.array([4.0, 4.0, 4.0])}, "title")
    (axes,) = figure.axes
    dots = [line.get_ydata().tolist() for line in axes.lines if line.get_gid() == "episodes"]
    means = [float(np.squeeze(line.get_ydata())) for line in axes.lines if line.get_gid() == "mean"]
    assert dots == [[1, 2, 6], [4, 4, 4]]
    assert means == [3, 4]
    for samples in ({}, {"a": np.array([])}):
        with pytest.raises(ValueError, match="no samples"):
            draw_paired_strips(samples, "title")
