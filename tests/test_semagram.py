"""Laws of the flat module: the same numbers as the commands, one action for one observation, errors in one line."""

import csv
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import semagram
import torch
import yaml

from configs.runs.run_folder import TIMES
from configs.runs.tracking import Trackers
from configs.train import train
from worldmodel.errors import UserError

PENDULUM = {"task": "gym", "task.id": "Pendulum-v1", "task.max_control_steps": 20}


@pytest.fixture(scope="module")
def run(toys, tmp_path_factory):
    """A run begun from the module, in the folder that it chose, and its rows as the callback got them."""
    home, rows = tmp_path_factory.mktemp("semagram"), []
    keys = {key: yaml.safe_load(value) for key, value in (pair.split("=") for pair in toys.tiny_keys)} | PENDULUM
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("WANDB_MODE", "offline")
        summary = semagram.train(keys, steps=100, planner={"horizon": 3}, track=["wandb"], callback=rows.append)
    return home / summary["run"], summary, rows


def test_it_trains_as_the_command_does(toys, run, tmp_path):
    folder, summary, rows = run
    again = train(
        [*toys.tiny_keys, *(f"{k}={v}" for k, v in PENDULUM.items()), "steps=100", "planner.horizon=3"], tmp_path
    )
    assert again["returns"] == summary["returns"]
    assert (tmp_path / "metrics.csv").read_bytes() == (folder / "metrics.csv").read_bytes()
    assert (folder.parents[1] / "last").resolve() == folder.resolve()
    times = [*csv.DictReader((folder / "timing.csv").read_text().splitlines())]
    assert [float(row["env_steps"]) for row in times] == [row["env_steps"] for row in rows] and times[0].keys() == {
        *TIMES
    }
    seconds = [float(row["seconds"]) for row in times]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert any((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def test_what_goes_in_as_an_array_or_tensor_alone_or_many_comes_out_so(run):
    agent = semagram.load(run[0], planned=False)
    env = semagram.make_env(agent.task)
    seen, _ = env.reset(seed=0)
    state = seen["observation.state"]
    alone, tensor = agent.act(seen), agent.act(torch.from_numpy(state))
    assert isinstance(alone, np.ndarray) and alone.shape == env.action_space.shape
    assert isinstance(tensor, torch.Tensor) and np.array_equal(tensor.numpy(), alone)
    agent.reset()
    assert np.allclose(agent.act(np.stack([state, 0 * state]))[0], alone, atol=1e-6)
    with pytest.raises(ValueError, match=r"observation.state: shape \(1, 2\)"):
        agent.act(np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="planned=False"):
        agent.plan(seen)


def test_a_plan_does_not_disturb_the_acting(run):
    env = semagram.make_env(run[1]["task"], max_control_steps=20)
    seen, _ = env.reset(seed=3)
    agents = semagram.load(run[0]), semagram.load(run[0])
    plans = [agents[0].plan(seen) for _ in range(2)]
    assert torch.equal(plans[0].tokens, plans[1].tokens) and plans[0].tokens.shape == (3, 1, 1)
    assert np.array_equal(agents[0].act(seen), agents[1].act(seen))


def test_a_tracker_that_fails_is_dropped_in_a_line_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "no such mode")
    trackers = Trackers(("wandb",), tmp_path, {}, "task")
    trackers.scalars({"loss": 1.0, "none": None}, 3)
    trackers.close()
    lines = [line for line in capsys.readouterr().err.splitlines() if "track" in line]
    assert len(lines) == 1 and lines[0].startswith("track=[wandb]: the run goes on without it")


class Recorder:
    """Stands in for the library of a tracker, whose runs are known by their ids."""

    Settings = staticmethod(lambda **keys: None)

    def __init__(self):
        self.rows = {}

    def init(self, id="", name="", **keys):
        rows = self.rows.setdefault(id or name, [])
        return SimpleNamespace(log=rows.append, finish=lambda: None, define_metric=lambda *a, **k: None)


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_tracker_gets_each_row_once_however_often_the_run_is_cut_off_and_a_callback_ends_it(
    toys, tmp_path, monkeypatch, tracker
):
    library, folder, seen = Recorder(), tmp_path / "run", []
    monkeypatch.setattr("configs.runs.tracking.import_module", lambda name: library)
    monkeypatch.setattr("configs.runs.tracking.find_spec", lambda name: name)
    keys = [*toys.tiny_keys, *(f"{k}={v}" for k, v in PENDULUM.items()), "seed_steps=30", "evaluation.every=0"]
    keys += ["steps=200", "checkpoint.every=50", f"track=[{tracker}]"]

    def cut(row):
        seen.append(row)
        if row["env_steps"] == until:
            raise KeyError

    for until, words in (140, keys), (120, [f"resume={folder}"]), (160, [f"resume={folder}"]):  # noqa: B007  `cut` reads it
        with pytest.raises(KeyError):
            train(words, None if words[0].startswith("resume") else folder, cut)
    ended = train([f"resume={folder}"], callback=lambda row: np.bool_(row["env_steps"] >= 180))
    assert ended["env_steps"] == 180 and (folder / "checkpoints/000000180").exists()
    until = -1
    assert train([f"resume={folder}"], callback=cut)["env_steps"] == 200
    (rows,) = library.rows.values()
    steps = [row["env_steps"] for row in rows]
    assert steps == [*range(20, 181, 20), 180, 200, 200] and sum("eval_return" in row for row in rows) == 2


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("configs.runs.tracking.find_spec", lambda name: None)
    how = r"track=\[trackio\]: `uv sync --extra trackio` .* `pip install 'semagram\[trackio\]'`"
    with pytest.raises(UserError, match=how):
        semagram.train(task="walker-walk", steps=10, track=["trackio"], folder=tmp_path / "run")
    assert not any(tmp_path.iterdir())


def test_a_wrong_argument_is_one_line(run, tmp_path):
    agent = semagram.load(run[0])
    for wrong, line in (
        (lambda: semagram.load(run[0], seed=-1), r"^load: seed=-1: a whole number from 0"),
        (lambda: semagram.film(agent, tmp_path / "a.mp4", seed=-1), r"^film: seed=-1: a whole number from 0"),
        (lambda: semagram.make_env("walker-walk", action_repeats=2), r"^task.action_repeats: no such key; did you"),
        (lambda: semagram.make_env(agent.task, action_repeat=2), r"^make_env: action_repeat= goes with a task's name"),
        (lambda: agent.act({"state": np.zeros(3)}), r"^the senses are observation.state; there is state$"),
        (lambda: agent.act(np.zeros(3, complex)), r"^observation.state: complex numbers; real ones only"),
        (lambda: agent.act(torch.zeros(3, dtype=torch.complex64)), r"^observation.state: complex numbers"),
    ):
        with pytest.raises(UserError, match=line) as caught:
            wrong()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["configs", "policies"])
def test_a_folder_that_hides_ours_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "mine.py").write_text("import semagram")
    ended = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert ended.returncode and f"hides Semagram's own package {name}" in ended.stderr.splitlines()[-1]


PAGE = Path(__file__).parents[1] / "docs" / "research.md"
SMALL = {"video": False, "compile": "false", "evaluation.episodes": 1, "task.max_control_steps": 30, "model.width": 32}
SMALL |= {"seed_steps": 80, "learning.batch_size": 16}


@pytest.mark.slow
def test_the_page_about_python_is_a_script_that_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    short = blocks[0].replace("steps=22000", f"keys={SMALL}, steps=200").replace("range(100)", "range(30)")
    assert short.count(str(SMALL)) == 1 and "range(30)" in short
    script = "\n".join([short, *blocks[1:]])
    (tmp_path / "mine.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("mine.py", run_name="__main__")
    out = capsys.readouterr().out
    summary = json.loads((tmp_path / "runs" / "mine" / "summary.json").read_text())
    assert out.startswith(f"{summary['return_mean']} {summary['policy_return_mean']}\n")
    assert "torch.Size([5, 1, 1]) torch.Size([5, 1, 1])" in out and (tmp_path / "runs/mine.mp4").is_file()
