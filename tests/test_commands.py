"""Laws of the commands: help is fast and whole; a mistake costs one line, exit code 2, and leaves nothing behind.

What may pass costs one line, too, but exit code 1; a defect of ours shows its traceback.
"""

import dataclasses
import errno
import json
import math
import os
import resource
import shlex
import subprocess
import sys
import types
import typing
from importlib import import_module, metadata

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from configs.arguments import typed
from configs.command import Task, composed, run
from configs.help_text import choices, entries, keys
from configs.reporting import Ended
from configs.schema import BenchConfig, EvaluateConfig, TokensConfig, TrainConfig
from configs.strict import ConfigError, build
from envs.task_env import EnvironmentFault
from envs.vector import EnvironmentLost
from policies.storage.folders import FolderError
from policies.storage.versions import commit
from robot.recording.settings import RecordConfig
from robot.running.settings import PlayConfig, RunConfig, ServeConfig
from sim.twin.twin import TwinConfig
from sim.variation import PRESETS, Variation
from worldmodel.errors import UserError
from worldmodel.settings import PlannerConfig
from worldmodel.strict import REMOVED

CLASSES = {
    **{"train": TrainConfig, "evaluate": EvaluateConfig, "bench": BenchConfig, "tokens": TokensConfig},
    **{"record": RecordConfig, "run": RunConfig, "play": PlayConfig, "serve": ServeConfig, "twin": TwinConfig},
}
NEEDED = {
    **{"tokens": {"verb": "demo", "out": "o"}, "record": {"dataset": "d"}, "run": {"checkpoint": "c"}},
    **{"play": {"sentence": "s"}, "serve": {"checkpoint": "c"}, "twin": {"port_file": "p"}},
}
"""The keys that a command cannot do without."""


OPEN = {"camera", "teleop"}
"""Groups of semagram-record that are plain dicts."""


def leaves(cls, place=""):
    """Yield the dotted name and the type of every key of a dataclass."""
    kinds = typing.get_type_hints(cls)
    for name, kind in ((field.name, kinds[field.name]) for field in dataclasses.fields(cls)):
        if dataclasses.is_dataclass(kind):
            yield from leaves(kind, f"{place}{name}.")
        elif name not in OPEN and f"{place}{name}" not in REMOVED:
            yield f"{place}{name}", kind


def plain_keys(name):
    """The keys of a command as YAML has them, with what it needs."""
    found = composed(name, []) | NEEDED.get(name, {})
    return found | {"task": found.pop("job")} if "job" in found else found


def change(found, name, value):
    """The same nested keys with another value of a dotted one."""
    head, _, rest = name.partition(".")
    return found | {head: change(found[head], rest, value) if rest else value}


def spent():
    """Seconds of processor time that ended child processes used: of the clock's, others may take what they like."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("name", CLASSES)
def test_help_is_fast_imports_nothing_heavy_and_names_every_key(name):
    before = spent()
    code = f"import sys; sys.argv = ['x', '--help']; import configs.{name} as c; c.main(); print([*sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert spent() - before < 1
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
    assert build(CLASSES[name], found) == default
    for key in expected - {"planner"}:
        assert explained.get(key, "").strip(), f"{key}: no comment in the YAML"
    groups = {entry.name for entry in entries(name) if entry.kind == "group"}
    extra = {key for key in explained if key[:6] != "hydra." and key not in expected}
    extra = {key for key in extra if not any(known.startswith(f"{key}.") for known in expected)}
    assert extra <= groups | OPEN | {f"{group}.{k}" for group in OPEN for k in found.get(group, {})}
    if name == "evaluate":
        fields = {field.name for field in dataclasses.fields(PlannerConfig)}
        assert set(found["planner"]) == {key for key in fields if f"planner.{key}" not in REMOVED}


def wrong_types(kind):
    """Values that are none of a kind."""
    if isinstance(kind, types.UnionType):
        return [{"a": 1}]
    return {int: ["many", 1.5], float: ["many", math.nan], bool: ["maybe", 1], str: [5], dict: [5]}.get(kind, [5])


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Checks that a command refuses keys: exit code 2, one line that begins with the key's name, nothing written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("configs.arguments.given", set)
    monkeypatch.setattr("configs.arguments.moved", lambda: False)
    import configs.train  # noqa: F401

    def check(name, found, key):
        with pytest.raises(SystemExit) as end:
            Task(name, getattr(import_module(f"configs.{name}"), name)).perform(dict(found), tmp_path / "run")
        out, err = capfd.readouterr()
        assert (end.value.code, out, err.count("\n")) == (2, "", 1), (key, err)
        assert err.startswith("semagram: ") and key in err, (key, err)
        assert not [*tmp_path.iterdir()]

    return check


@pytest.mark.parametrize("name", CLASSES)
def test_a_misspelt_key_a_wrong_type_and_a_value_out_of_range_are_refused_by_name(name, refused):
    found = plain_keys(name)
    if name == "record":
        found["job"] = found.pop("task")
    for key, kind in leaves(CLASSES[name]):
        place = "job" if (name, key) == ("record", "task") else key
        if key in ("robot_cameras", "planner") and kind is dict:
            continue
        refused(name, change(found, f"{place}_", 1), f"{place}_")
        for value in wrong_types(kind):
            refused(name, change(found, place, value), key)
        if kind in (int, float):
            refused(name, change(found, place, -(10**9)), key)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("train", ["learning.bach_size=10"], "learning.bach_size: no such key; did you mean learning.batch_size?"),
        ("train", ["planner.spread=1"], "planner.spread: now planner.std"),
        ("train", ["task=walker-wlak"], "no such task; close to it: walker-walk"),
        ("train", ["task=[walker-run,walker-walk]"], "task.name=[walker-run,walker-walk]: no such task"),
        ("train", ["task.control_hz=5"], "task.control_hz: only for the SO-101's tasks"),
        ("train", ["recipe=foo"], "recipe=foo: one of drop-senses, hopper-stand, "),
        ("train", ["seed=1,2"], "seed=1,2: several values are for a sweep, with -m; a list is [a,b]"),
        ("train", ["planner.budget=fixed"], "planner.budget: removed: every plan has all of planner.iterations"),
        ("train", ["device=cuda:9"], "device=cuda:9: CUDA devices here: 0"),
        ("train", ["seed=${missing}"], "Interpolation key 'missing' not found"),
        ("evaluate", ["checkpoint=a", "sentence=walk, then stop"], "needs quotes in quotes"),
        ("bench", ["tasks=[Pendulum-v1,Pendulam-v1]"], "task.id=Pendulam-v1: no such environment is installed"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(command, tmp_path, monkeypatch, name, arguments, said):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = command(name, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("semagram: ") and said in err
    assert not [*tmp_path.iterdir()]


def test_a_mistake_ends_a_process_the_same_way(tmp_path):
    command = [sys.executable, "-m", "configs.train", "sede=3"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "semagram: sede: no such key; did you mean seed or senses?\n"
    assert not [*tmp_path.iterdir()]


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


@pytest.mark.parametrize("name", choices("randomise"))
def test_a_variation_by_name_is_the_one_that_lerobots_commands_take(name):
    assert build(Variation, composed("train", [f"randomise={name}"])["randomise"]) == PRESETS[name]


def program(name, *arguments, **keys):
    """Run a command in a process of its own."""
    command = [sys.executable, "-P", "-m", f"configs.{name}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, **keys)


def test_a_recipe_of_ones_own_is_found(tmp_path):
    (tmp_path / "my" / "recipe").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /task: walker-run\nsteps: 77\n"
    (tmp_path / "my" / "recipe" / "mine.yaml").write_text(text)
    shown = program("train", "recipe=mine", "--config-dir", "my", "--cfg", "job", cwd=tmp_path)
    assert "steps: 77" in shown.stdout and "name: walker-run" in shown.stdout, shown.stderr


@pytest.mark.slow
def test_a_sweep_runs_each_member_in_a_folder_of_its_own_and_one_that_fails_leaves_the_others_alone(tmp_path, toys):
    words = [*toys.tiny_keys, "evaluation.every=0", "evaluation.episodes=1", "task.max_control_steps=20"]
    done = program("train", "-m", "task=cartpole-swingup", "seed=1,-2,3", "steps=100", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert [json.loads(line)["seed"] for line in done.stdout.splitlines()] == [1, 3]
    folders = sorted(path.name[-2:] for path in (tmp_path / "runs" / "cartpole-swingup").iterdir())
    assert folders == ["-0", "-1", "-2"]
    assert "seed=-2: from 0 to" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["train", "bench"])
def test_it_says_its_own_version_and_which_code_that_is(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--version"])
    run(name, None)
    assert capsys.readouterr().out == f"semagram {metadata.version('semagram')}, code {commit()}\n"


@pytest.mark.parametrize("path", ["runs/a-1", "my run", "été", "it's", "a,b=c!", "it\\'s", "end\\", "$HOME/x", "[x]"])
def test_an_argument_to_be_typed_is_read_by_shell_and_hydra_as_it_was_meant(path):
    (word,) = shlex.split(typed("resume", path))
    override = OverridesParser.create().parse_override(word)
    assert (override.key_or_group, override.value()) == ("resume", path)


UNREAD = [["train", "--help"], ["train", "--cfg", "job"], ["bench", "table=docs/results/dmc-100k.csv"]]


@pytest.mark.parametrize("arguments", UNREAD)
def test_what_nobody_reads_to_its_end_ends_quietly(arguments):
    command = [sys.executable, "-m", f"configs.{arguments[0]}", *arguments[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Error" not in process.stderr.read()
    assert process.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux's full disk")
def test_a_result_that_cannot_be_written_is_said():
    command = [sys.executable, "-m", "configs.bench", "table=docs/results/dmc-100k.csv"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert ended.stderr.endswith("semagram: stdout: No space left on device\n")


ARM = ["robot=so101", "port=/dev/no_such_port", "id=a"]


@pytest.mark.parametrize(
    ("name", "arguments", "code", "said"),
    [
        ("run", ["checkpoint=nowhere"], 2, "checkpoint=nowhere: no such folder"),
        ("run", ["checkpoint=.", "robot=so101-twin", "port_file=p"], 2, "port_file=p: no such file; start `sema"),
        ("run", ["checkpoint=.", *ARM], 1, "port=/dev/no_such_port: no such device; is the arm plugged in?"),
    ],
)
def test_what_is_not_there_is_told_before_anything_heavy_is_imported(tmp_path, name, arguments, code, said):
    words = (
        f"import sys; sys.argv = ['x', *{arguments}]\nimport configs.{name} as c\n"
        "try: c.main()\nfinally: print({'torch', 'mujoco', 'lerobot'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", words], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "set()\n", 1), done.stderr
    assert done.stderr.startswith(f"semagram: {said}")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_hides_a_package_is_named(tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").touch()
    command = [sys.executable, "-m", "configs.train", "steps=500"]  # -m looks in the current folder first
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"semagram: {tmp_path / 'envs'} hides Semagram's own package envs; ")


@pytest.fixture
def ending(command, monkeypatch):
    """Runs a command whose work raises an error."""

    def run(error):
        def fails(_):
            raise error

        monkeypatch.setattr("configs.bench.tabulate", fails)
        return command("bench", "table=a.csv")

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("steps=0"), 2, "steps=0"),
        (FolderError("it is damaged"), 2, "it is damaged"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a"), 2, "[Errno 2] No such file: 'a'"),
        (OSError(errno.EADDRINUSE, "Address already in use"), 2, "[Errno 98] Address already in use"),
        (EnvironmentFault("the reward is nan"), 2, "the reward is nan"),
        (FloatingPointError("a weight is not finite"), 2, "a weight is not finite"),
        (OSError(errno.ENOSPC, "No space left", "a"), 1, "[Errno 28] No space left: 'a'"),
        (ConnectionError("nothing answers at the port"), 1, "nothing answers at the port"),
        (EnvironmentLost("it was killed"), 1, "it was killed"),
        (Ended("stopped: driver", 3), 3, "stopped: driver"),
        (RuntimeError("can't allocate memory: 9 bytes"), 1, "no room in memory: can't allocate memory: 9 bytes"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=str,
)
def test_a_mistake_and_what_may_pass_are_told_apart(ending, error, code, line):
    assert ending(error) == (code, "", f"semagram: {line}\n")


@pytest.mark.parametrize("error", [ValueError("shapes (2,) and (3,)"), ZeroDivisionError(), KeyError(1)])
def test_a_defect_is_not_told_as_a_mistake(ending, error):
    with pytest.raises(type(error)) as raised:
        ending(error)
    assert raised.value is error


@pytest.mark.parametrize("error", [UserError("it"), OSError(errno.ENOSPC, "full"), FloatingPointError("nan")])
def test_who_asks_for_tracebacks_gets_that_of_a_mistake_too(ending, monkeypatch, error):
    monkeypatch.setenv("SEMAGRAM_TRACEBACK", "1")
    with pytest.raises(type(error)) as raised:
        ending(error)
    assert raised.value is error


def test_only_the_folders_that_it_made_are_removed(command, tmp_path):
    (tmp_path / "mine").mkdir()
    for place in ("mine", "mine/run", "mine/more/run"):
        code, _, err = command("train", f"hydra.run.dir={place}", "steps=0")
        assert (code, err.count("\n")) == (2, 1)
        assert [path.name for path in tmp_path.rglob("*")] == ["mine"]
