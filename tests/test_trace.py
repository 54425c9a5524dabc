"""Laws of the trace of decisions: it holds them all, changes none, is bounded, and survives a kill."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow.parquet import read_table

from configs.arm.recording import RecordSession
from configs.arm.running import RunSession
from configs.command import composed
from configs.runs.training import Training
from policies.agent import Agent
from policies.decisions import trace
from policies.decisions.trace import Trace
from policies.storage.folders import FolderError
from robot.settings import RecordConfig, RunConfig
from worldmodel.senses import STATE_KEY
from worldmodel.settings import PlannerConfig

PLANNING = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=2, horizon=3, td_check_steps=24)


@pytest.fixture
def acting(toys):
    def agent():
        model = toys.tiny_model(3, 4, token=toys.token_settings(2))
        return Agent.acting(model, PLANNING, 0.9, (), torch.Generator().manual_seed(0))

    return agent


def acted(agent, toys, steps=9):
    g = torch.Generator().manual_seed(1)
    return torch.stack([agent.act(toys.observed({STATE_KEY: torch.randn(2, 3, generator=g)})) for _ in range(steps)])


def test_a_trace_holds_every_decision_and_changes_none(acting, toys, tmp_path):
    plain, agent, clock = acting(), acting(), [0]
    agent.trace = Trace(tmp_path, {"task": "toy"}, lambda: ([7, 8], [clock[0]] * 2))
    g, latents, returns = torch.Generator().manual_seed(1), [], []
    expected = acted(plain, toys)
    for step in range(9):
        clock[0] = step
        action = agent.act(toys.observed({STATE_KEY: torch.randn(2, 3, generator=g)}))
        assert torch.equal(action, expected[step])
        if bool(agent.planned.any()):
            latents.append(agent.plan.latent)
            returns.append(agent.plan.returns)
    agent.trace.close()
    rows, about = trace.read(tmp_path)
    assert about == {"task": "toy"} and len(rows) == agent.totals.decisions == 10
    places = [(row["episode_index"], row["frame_index"]) for row in rows]
    assert places == [(episode, frame) for frame in range(0, 9, 2) for episode in (7, 8)]
    assert torch.equal(torch.tensor([row["latent"] for row in rows]), torch.cat(latents))
    assert torch.equal(torch.tensor([row["elite_returns"] for row in rows]), torch.cat(returns))
    for row in rows:
        assert len(row["candidate_returns"]) == 8 and row["candidate_returns"][:4] == row["elite_returns"]
        assert len(row["rejected_returns"]) == 3 and len(row["rejected_tokens"]) == 3 * len(row["tokens"])
        assert len(row["tokens"]) == 3 * 4 and row["steps"] == 2 and row["plan_ms"] > 0


def test_rejected_plans_are_good_ones_that_differ():
    elites = np.array([[[0.0], [0.01], [1.0], [-1.0], [5.0], [6.0], [7.0], [8.0]]])
    chosen, returns = np.zeros((1, 1)), np.array([8.0, 7, 6, 5, 4, 3, 2, -np.inf])
    assert trace.rejected(elites, returns, chosen) == [1, 2, 3]
    assert trace.rejected(elites, np.full(8, -np.inf), chosen) == []


def test_a_trace_is_bounded_and_goes_on_after_the_files_that_are_there(acting, toys, tmp_path, monkeypatch):
    monkeypatch.setattr(trace, "ROWS", 4)
    monkeypatch.setattr(trace, "MOST_BYTES", 40_000)
    for _ in range(3):
        agent = acting()
        agent.trace = Trace(tmp_path, {}, lambda: ([0, 0], [0, 0]))
        acted(agent, toys)
        agent.trace.close()
    found = trace.files(tmp_path)
    assert 1 < len(found) < 9 and int(found[-1].stem) == 8
    assert sum(path.stat().st_size for path in found) < 60_000


KILLED = """
import sys, time, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
from policies.agent import Agent
from policies.decisions.trace import Trace
from worldmodel.model import WorldModel
from worldmodel.observation import Observation
from worldmodel.settings import ModelConfig, PlannerConfig
config = ModelConfig(latent=16, group=4, width=16, bins=11, precision="fp32")
model = WorldModel({{"observation.state": (3,)}}, 2, config)
planning = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=1, horizon=2)
agent = Agent.acting(model, planning, 0.9, (), torch.Generator())
n = 0
agent.trace = Trace(Path({folder!r}), {{}}, lambda: ([0], [n]))
while True:
    agent.act(Observation.of(model.senses, {{"observation.state": torch.zeros(1, 3)}}))
    n += 1
    print(n, time.time(), flush=True)
    time.sleep(0.01)
"""


def test_a_process_killed_at_once_leaves_all_but_its_last_seconds(tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    said = []
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            said.append(line.split())
            if float(said[-1][1]) - float(said[0][1]) > 5 and trace.files(tmp_path):
                break
        process.send_signal(signal.SIGKILL)
    rows, _ = trace.read(tmp_path)
    assert [row["frame_index"] for row in rows] == list(range(len(rows)))
    kept = [float(at) for n, at in said if int(n) <= len(rows)]
    assert float(said[-1][1]) - kept[-1] < 3  # a second, and what writing takes on a loaded machine


def test_what_is_no_trace_is_refused_in_a_line(tmp_path):
    with pytest.raises(FolderError, match="holds no trace"):
        trace.read(tmp_path)
    (tmp_path / "000000.parquet").write_bytes(b"no")
    with pytest.raises(FolderError, match="not a trace"):
        trace.read(tmp_path)


def test_a_training_keeps_the_decisions_of_each_evaluation_apart(toys, tmp_path):
    keys = ("task=pendulum-swingup", "task.max_control_steps=6", "steps=40", "seed_steps=20", "video=false")
    keys += ("evaluation.episodes=2", "evaluation.every=24", "evaluation.trace=true")
    Training.begin(composed("train", [*toys.tiny_keys, *keys]), tmp_path / "run").run()
    found = sorted((tmp_path / "run" / "trace").iterdir())
    assert [folder.name for folder in found] == ["000000024", "000000040"]
    for folder in found:
        rows, about = trace.read(folder)
        assert about == {"task": "pendulum-swingup", "env_steps": int(folder.name)}
        assert sorted((row["episode_index"], row["frame_index"]) for row in rows) == [
            (episode, frame) for episode in range(2) for frame in range(6)
        ]


def test_a_run_on_an_arm_keeps_a_trace_by_episode_and_frame(arm_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = {"episodes": 2, "seconds": 0.5, "viewer": "none", "planner": True, "trace": True}
    told = RunSession.begin(RunConfig(checkpoint=str(arm_checkpoint), **keys)).run()
    rows, about = trace.read(Path(told["trace"]))
    assert about["task"] == "so101-touch" and told["episodes"] == 2
    assert {row["episode_index"] for row in rows} == {0, 1} and len(rows) >= told["plans"]
    for episode in (0, 1):
        frames = [row["frame_index"] for row in rows if row["episode_index"] == episode]
        assert frames == sorted(frames) and frames[0] >= 1


def test_a_recording_keeps_a_trace_that_goes_on_where_the_dataset_does(arm_checkpoint, tmp_path):
    keys = {"dataset": str(tmp_path / "set"), "driver": "policy", "checkpoint": str(arm_checkpoint), "seconds": 0.5}
    for episodes in (1, 2):
        RecordSession(RecordConfig(**keys, episodes=episodes, trace=True)).run()
    rows, _ = trace.read(tmp_path / "set.trace")
    kept = read_table(tmp_path / "set" / "data")
    frames = set(zip(kept["episode_index"].to_pylist(), kept["frame_index"].to_pylist(), strict=True))
    found = [(row["episode_index"], row["frame_index"]) for row in rows]
    assert sorted(set(found)) == sorted(found) and set(found) <= frames  # each decision has its frame
    assert found == [(episode, frame) for episode in (0, 1) for frame in range(0, 15, 4)]
