"""Laws of the commands: help is fast and whole; a mistake costs one line, exit code 2, and leaves nothing behind."""

import dataclasses
import json
import math
import re
import resource
import shlex
import subprocess
import sys
import types
import typing
from importlib import metadata
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from configs import commands
from configs.arguments import choices, entries, keys, typed
from configs.command import composed
from configs.runs.run_folder import COLUMNS, TIMES
from configs.schema import BenchConfig, EvaluateConfig, GuideConfig, TokensConfig, TrainConfig, WhyConfig
from configs.train import train
from policies.settings import CodecConfig
from policies.storage.folders import commit
from robot.settings import DataConfig, PlayConfig, RecordConfig, RunConfig, ServeConfig
from sim.twin.twin import TwinConfig
from sim.variation import PRESETS, Variation
from worldmodel.errors import UserError
from worldmodel.settings import LearningConfig, PlannerConfig
from worldmodel.strict import build, unknown

CLASSES = {
    **{"train": TrainConfig, "evaluate": EvaluateConfig, "bench": BenchConfig, "tokens": TokensConfig},
    **{"record": RecordConfig, "run": RunConfig, "play": PlayConfig, "serve": ServeConfig, "twin": TwinConfig},
    **{"guide": GuideConfig, "why": WhyConfig, "data": DataConfig},
}
NEEDED = {
    **{"tokens": {"verb": "fit", "dataset": "d"}, "record": {"dataset": "d"}, "run": {"checkpoint": "c"}},
    **{"play": {"plan": "s"}, "serve": {"checkpoint": "c"}, "twin": {"port_file": "p"}},
    **{"guide": {"checkpoint": "c", "show": "quantities"}, "why": {"run": "r"}, "data": {"check": "d"}},
}
"""The keys that a command cannot do without."""
OPEN = {"camera", "teleop"}
"""Groups of semagram-record that are plain dicts."""


def leaves(cls, place=""):
    """Yield the dotted name and the type of every key of a dataclass."""
    yield from ((name, kind) for name, kind, _ in ranges(cls, place))


def ranges(cls, place=""):
    """Yield the dotted name, the type and the highest value, if one is declared, of every key of a dataclass."""
    kinds = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name, kind = field.name, kinds[field.name]
        if dataclasses.is_dataclass(kind):
            yield from ranges(kind, f"{place}{name}.")
        elif name not in OPEN:
            yield f"{place}{name}", kind, field.metadata.get("range", (None,))[-1]


def plain_keys(name):
    """The keys of a command as YAML has them, with what it needs."""
    return composed(name, []) | NEEDED.get(name, {})


def change(found, name, value):
    """The same nested keys with another value of a dotted one."""
    head, _, rest = name.partition(".")
    return found | {head: change(found[head], rest, value) if rest else value}


def child_seconds():
    """Seconds of processor time that ended child processes used: of the clock's, others may take what they like."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("name", CLASSES)
def test_help_is_fast_imports_nothing_heavy_and_names_every_key(name):
    before = child_seconds()
    code = f"import sys; sys.argv = ['x', '--help']; import configs.commands as c; c.{name}(); print([*sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child_seconds() - before < 1
    *lines, modules = shown.stdout.splitlines()
    assert not set(modules.strip("[]").replace("'", "").split(", ")) & {"torch", "numpy", "gymnasium", "hydra", "yaml"}
    words = {line.strip().partition("=")[0] for line in lines}
    assert {key for key, _ in leaves(CLASSES[name]) if name != "evaluate" or key[:8] != "planner."} <= words
    assert max(map(len, lines)) <= 120 and not shown.stderr


@pytest.mark.parametrize("name", CLASSES)
def test_every_key_stands_in_the_yaml_with_its_default_and_a_comment(name):
    default, found = CLASSES[name](**NEEDED.get(name, {})), plain_keys(name)
    explained = keys(name)
    expected = {key for key, _ in leaves(CLASSES[name])}
    if name == "evaluate":
        default = dataclasses.replace(default, planner=found["planner"])
        assert set(found["planner"]) == {field.name for field in dataclasses.fields(PlannerConfig)}
    assert build(CLASSES[name], found) == default
    for key in expected - {"planner"}:
        assert explained.get(key, "").strip(), f"{key}: no comment in the YAML"
    groups = {entry.name for entry in entries(name) if entry.kind == "group"}
    extra = {key for key in explained if key[:6] != "hydra." and key not in expected}
    extra = {key for key in extra if not any(known.startswith(f"{key}.") for known in expected)}
    assert extra <= groups | OPEN | {f"{group}.{k}" for group in OPEN for k in found.get(group, {})}


def test_help_explains_every_column_that_a_run_writes(command):
    _, out, _ = command("train", "--help")
    shown = {word.strip(",.") for word in out.split()}
    losses = {"loss_*" if name.startswith("loss_") else name for name in (*COLUMNS, *TIMES)}
    assert losses <= shown, losses - shown


def test_each_command_is_where_the_table_says():
    for name, cls in CLASSES.items():
        command = getattr(commands, name)
        assert command.name == name and callable(resolve_name(command.work))
        assert (resolve_name(command.keys) if command.keys else TrainConfig) is cls


def wrong_types(kind):
    """Values that are none of a kind."""
    if isinstance(kind, types.UnionType):
        return [{"a": 1}]
    return {int: ["many", 1.5], float: ["many", math.nan], bool: ["maybe", 1], str: [5], dict: [5]}.get(kind, [5])


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Checks that a command refuses keys: exit code 2, one line that begins with the key's name, nothing written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("configs.train.given", set)
    monkeypatch.setattr("configs.train.moved", lambda: False)

    def check(name, found, key):
        with pytest.raises(SystemExit) as end:
            getattr(commands, name).perform(dict(found), tmp_path / "run")
        out, err = capfd.readouterr()
        assert (end.value.code, out, err.count("\n")) == (2, "", 1), (key, err)
        assert err.startswith("semagram: ") and key in err, (key, err)
        assert not [*tmp_path.iterdir()]

    return check


@pytest.mark.parametrize("name", CLASSES)
def test_a_misspelt_key_a_wrong_type_and_a_value_out_of_range_are_refused_by_name(name, refused):
    found = plain_keys(name)
    for key, kind, highest in ranges(CLASSES[name]):
        if key in ("robot_cameras", "planner") and kind is dict:
            continue
        refused(name, change(found, f"{key}_", 1), f"{key}_")
        for value in wrong_types(kind):
            refused(name, change(found, key, value), key)
        if kind in (int, float):
            refused(name, change(found, key, -(10**9)), key)
            if highest is not None:
                refused(name, change(found, key, highest + 1 if kind is int else 2.0 * highest + 1), key)


WRONG = [
    (CodecConfig, {"ids": 8.0}, "ids=8.0: a whole number"),
    (CodecConfig, {"ids": "8"}, "ids='8': a whole number"),
    (CodecConfig, {"ids": True}, "ids=True: a whole number"),
    (CodecConfig, {"ids": 257}, "ids=257: from 1 to 256"),
    (PlannerConfig, {"std": None}, "planner.std=None: a number"),
    (LearningConfig, {"rho": math.nan}, "learning.rho=nan: above 0, at most 1"),
    (LearningConfig, {"batch_size": 0}, "learning.batch_size=0: from 1 to 65536"),
]


def test_who_makes_settings_in_code_is_refused_what_a_command_is_and_numpys_numbers_are_numbers():
    for kind, values, line in WRONG:
        whole = object.__new__(kind)  # past the check of types while the tests run
        for name, value in (dataclasses.asdict(kind()) | values).items():
            object.__setattr__(whole, name, value)
        with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
            whole.__post_init__()
    config = LearningConfig()
    for name, value in (("batch_size", np.int64(4)), ("rho", np.float32(0.5)), ("horizon", np.int32(3))):
        object.__setattr__(config, name, value)
    config.__post_init__()


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("train", ["learning.bach_size=10"], "learning.bach_size: no such key; did you mean learning.batch_size?"),
        ("train", ["task=[walker-run,walker-walk]"], "task.name=[walker-run,walker-walk]: no such task"),
        ("train", ["--task=walker-walk"], "--task=walker-walk: keys are set without dashes: task=walker-walk"),
        ("train", ["task", "walker-walk"], "task: a key and its value are one word: task=<value>"),
        ("train", ["task.control_hz=5"], "task.control_hz: only for the SO-101's tasks"),
        ("train", ["recipe=foo"], "recipe=foo: one of drop-senses, hopper-stand, "),
        ("train", ["seed=1,2"], "To sweep over it, add --multirun"),
        ("train", ["seed=1,x", "-m", "steps=10"], "seed=x: a whole number"),
        ("train", ["hydra/launcher=joblb", "-m", "seed=1,2"], "hydra/launcher=joblb: one of joblib, submitit_local, "),
        ("train", [f"hydra.run.dir={__file__}/x"], f"hydra.run.dir={__file__}/x: Not a directory ({__file__}/x)"),
        ("train", ["device=cuda:9"], "device=cuda:9: CUDA devices here: 0"),
        ("train", ["seed=${missing}"], "Interpolation key 'missing' not found"),
        ("train", ["senses=[state,"], "senses=[state,: a bracket is not closed"),
        ("evaluate", ["checkpoint=a", "instruction=walk, then stop"], "To use it as string, quote the value"),
        ("record", ["dataset=d", "task=touch"], "task: no such key; did you mean sim_task?"),
        ("train", ["-m", "seed=1,2", "resume=runs/last"], "resume=runs/last: not with -m"),
        ("train", ["-m", "seed=1,2", "track=[trackio]"], "`uv sync --extra trackio` in a clone, else `pip install"),
        ("train", ["task=nowhere_at_all:Tank-v0"], "no module nowhere_at_all; its folder belongs on PYTHONPATH"),
        ("bench", ["tasks=[walker-runn]"], "task.name=walker-runn: no such task; close to it: walker-run"),
        ("bench", ["tasks=[Pendulum-v1,Pendulam-v1]"], "task.id=Pendulam-v1: no such environment is installed"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(command, tmp_path, monkeypatch, name, arguments, line):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = command(name, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("semagram: ") and line in err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("track=a=b", r"^track=a=b: such a text needs quotes inside quotes: \"track='a=b'\"$"),
        ("device=a!b", r"^device=a!b: such a text needs quotes inside quotes: \"device='a!b'\"$"),
        ("stepz=100", r"^stepz: no such key; did you mean steps\?$"),
        ("stepz=a > 0", r"^stepz: no such key; did you mean steps\?$"),
        ("task=cartpole-swingop", r"^task.name=cartpole-swingop: no such task; close to it: cartpole-swingup"),
        ("cartpole-swingup", r"^cartpole-swingup: arguments are <key>=<value>, e.g. task=cartpole-swingup$"),
        ("image_size=32", r"image_size"),
    ],
)
def test_a_wrong_argument_raises_in_a_script_what_the_command_would_print(tmp_path, argument, line):
    with pytest.raises(UserError, match=line):
        train(["seed=1", argument], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", choices("recipe"))
def test_a_recipe_is_a_run_and_what_is_given_as_well_comes_first(name):
    recipe = build(TrainConfig, composed("train", [f"recipe={name}"]))
    assert recipe != build(TrainConfig, composed("train", []))
    other = build(TrainConfig, composed("train", [f"recipe={name}", "steps=7", "noise=pink"]))
    assert other == dataclasses.replace(recipe, steps=7, noise="pink")


def test_a_token_a_variation_and_an_environment_by_name_are_those_of_their_keys():
    line = ["model.token.length=4", "model.token.control_points=2", "model.token.degree=1", "model.token.joined=true"]
    assert composed("train", ["token=line4"]) == composed("train", line)
    arm = composed("train", ["task=so101-touch", "randomise=mild", "task.control_hz=60"])
    assert (arm["task"]["control_hz"], arm["randomise"]["latency_ms"]) == (60, [0, 20])
    for name in choices("randomise"):  # as LeRobot's commands take it
        assert build(Variation, composed("train", [f"randomise={name}"])["randomise"]) == PRESETS[name]


def test_an_environment_of_a_package_has_a_folder_without_a_colon_and_its_success_counts(
    toys, command, tmp_path, monkeypatch
):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    _, out, _ = command("train", *toys.tiny_keys, "task=mine:Mine-v0", "steps=40", "seed_steps=30")
    made = json.loads(out)
    assert made["task"] == "mine:Mine-v0" and made["run"].startswith(f"{tmp_path}/runs/mine-Mine-v0/")
    assert made["success_rate"] == made["policy_success_rate"] == 1
    rows = (Path(made["run"]) / "metrics.csv").read_text().splitlines()
    assert [dict(zip(rows[0].split(","), row.split(","), strict=True))["episode_success"] for row in rows[1:3]] == [
        "1"
    ] * 2


MINE = """
import gymnasium
from gymnasium.envs.classic_control import PendulumEnv

class Mine(PendulumEnv):
    def step(self, action):
        *rest, _ = super().step(action)
        return *rest, {"success": True}

gymnasium.register("Mine-v0", Mine, max_episode_steps=20)
"""


def test_a_recipe_of_ones_own_is_found(command, tmp_path):
    (tmp_path / "my" / "recipe").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /task: walker-run\nsteps: 77\n"
    (tmp_path / "my" / "recipe" / "mine.yaml").write_text(text)
    _, shown, err = command("train", "recipe=mine", "--config-dir", "my", "--cfg", "job")
    assert "steps: 77" in shown and "name: walker-run" in shown, err
    (tmp_path / "my" / "recipe" / "mine.yaml").write_text("steps: [1\nseed: 2\n")
    code, shown, err = command("train", "recipe=mine", "--config-dir", "my")
    assert (code, shown) == (2, "") and re.fullmatch(r"semagram: not YAML: .* in \".*mine.yaml\", line 2, .*\n", err)


def test_it_says_its_own_version_and_which_code_that_is(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "--version"])
    commands.train()
    assert capsys.readouterr().out == f"semagram {metadata.version('semagram')}, code {commit()}\n"


@pytest.mark.parametrize("path", ["runs/a-1", "my run", "été", "it's", "a,b=c!", "it\\'s", "end\\", "$HOME/x", "[x]"])
def test_an_argument_to_be_typed_is_read_by_shell_and_hydra_as_it_was_meant(path):
    (word,) = shlex.split(typed("resume", path))
    override = OverridesParser.create().parse_override(word)
    assert (override.key_or_group, override.value()) == ("resume", path)


def test_the_line_about_an_unknown_key_names_the_groups_of_keys_too():
    known = ["seed", "guidance.folders", "guidance.weight", "model.token.length", "hydra.run.dir"]
    assert unknown("xyzzy", known) == "xyzzy: no such key; valid here: seed, guidance, model"
    assert unknown("model.xyzzy", known) == "model.xyzzy: no such key; valid here: model.token"


def test_what_is_not_there_is_reported_before_anything_heavy_is_imported(tmp_path):
    words = """import sys, configs.commands as commands
for arguments in (["nowhere"], [".", "robot=so101-twin", "port_file=p"], [".", "robot=so101", "port=/dev/no", "id=a"]):
    sys.argv = ["x", f"checkpoint={arguments[0]}", *arguments[1:]]
    try: commands.run()
    except SystemExit as end: print(end.code)
print({"torch", "mujoco", "lerobot"} & set(sys.modules))"""
    command = [sys.executable, "-P", "-c", words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    lines = (
        "checkpoint=nowhere: no such folder",
        "port_file=p: no such file; start `sema",
        "port=/dev/no: no such",
    )
    assert (done.stdout, done.stderr.count("\n")) == ("2\n2\n1\nset()\n", 3), done.stderr
    assert all(f"semagram: {line}" in done.stderr for line in lines)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_hides_a_package_is_named(tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").touch()
    words = [sys.executable, "-m", "configs.commands", "train", "steps=500"]  # -m looks in the current folder first
    ended = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"semagram: {tmp_path / 'envs'} hides Semagram's own package envs; ")


def test_only_the_folders_that_it_made_are_removed(command, tmp_path):
    (tmp_path / "mine").mkdir()
    for place in ("mine", "mine/run", "mine/more/run"):
        code, _, err = command("train", f"hydra.run.dir={place}", "steps=0")
        assert (code, err.count("\n")) == (2, 1)
        assert [path.name for path in tmp_path.rglob("*")] == ["mine"]
