"""Working from Python: docs/research.md as a user's script, and what wrong arguments and observations are told."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs.runs.scripting import train
from configs.strict import ConfigError

PAGE = Path(__file__).parents[1] / "docs" / "research.md"
SMALL = ["video=false", "compile=false", "evaluation.episodes=1", "task.max_control_steps=30", "model.width=32"]


def test_the_page_is_a_script_that_runs_from_top_to_bottom(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 6
    script = "\n".join(blocks).replace('"steps=25000"', json.dumps(["steps=1100", *SMALL])[1:-1])
    script = script.replace("range(1000)", "range(40)")  # beyond an episode's end
    (tmp_path / "mine.py").write_text(script)
    ran = subprocess.run(
        [sys.executable, "-W", "error", "mine.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    summary = json.loads((tmp_path / "runs" / "mine" / "summary.json").read_text())
    assert ran.stdout.startswith(f"{summary['return_mean']} {summary['policy_return_mean']}\n")
    assert "torch.Size([5, 2, 1]) torch.Size([5, 2, 1])" in ran.stdout


def test_a_script_goes_on_with_its_run_to_as_many_steps_as_it_says(tmp_path):
    first = train(["steps=40", "seed_steps=10", *SMALL], tmp_path / "run")
    assert first["env_steps"] == 40
    assert train([f"resume={tmp_path / 'run'}", "steps=60"])["env_steps"] == 60
    with pytest.raises(ConfigError, match=r"^seed: fixed when this run began"):
        train([f"resume={tmp_path / 'run'}", "seed=77"])
    with pytest.raises(ConfigError, match=r"^folder=elsewhere: not with resume="):
        train([f"resume={tmp_path / 'run'}"], "elsewhere")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("stepz=100", r"^stepz: no such key; did you mean steps\?$"),
        ("task=cartpole-swingop", r"^task.name=cartpole-swingop: no such task; close to it: cartpole-swingup"),
        ("token=lne4", r"^token=lne4: one of line2, line4, step$"),
        ("cartpole-swingup", r"^cartpole-swingup: keys are given as key=value$"),
        ("task.control_hz=20", r"^task.control_hz: only for the SO-101's tasks"),
        ("steps=abc", r"^steps=abc: a whole number"),
        ("model.vision.patch=4", r"^model.vision.patch: only with a camera"),
    ],
)
def test_a_wrong_argument_raises_what_the_command_would_print(tmp_path, argument, said):
    with pytest.raises(ConfigError, match=said):
        train(["seed=1", argument], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_new_run_needs_a_folder():
    with pytest.raises(ConfigError, match=r"^folder: where to put the run"):
        train(["steps=10"])
