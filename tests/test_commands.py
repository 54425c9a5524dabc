"""Laws of the commands: help is fast and whole; a mistake costs one line, exit code 2, and leaves nothing behind.

What may pass costs one line, too, but exit code 1; a defect of ours shows its traceback.
"""

import errno
import importlib
import os
import re
import resource
import shlex
import subprocess
import sys
import types
from dataclasses import asdict
from importlib import metadata

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from configs import store
from configs.arguments import known_keys, typed
from configs.command import run
from configs.reporting import Ended
from configs.schema import BenchConfig
from configs.strict import ConfigError, build
from envs.faults import EnvironmentFault, EnvironmentLost
from policies.planner_link.messages import Refused
from policies.storage.code_version import commit
from policies.storage.folders import FolderError
from worldmodel.mistakes import Mistake

COMMANDS = ["train", "evaluate", "bench", "tokens", "record", "twin", "run", "play", "serve"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_fast_and_names_every_key(name):
    before = spent()
    command = [sys.executable, "-m", f"configs.{name}", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert spent() - before < 3
    store.register()
    keys = {key.partition(".")[0] for key in known_keys(name)}
    assert len(keys) > 3
    assert not {key for key in keys if not re.search(rf"(?<![\w.]){key}(?![\w])", shown.stdout)}
    assert max(map(len, shown.stdout.splitlines())) <= 120
    assert not shown.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_it_says_its_own_version_and_which_code_that_is(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--version"])
    assert run(name, "", None) == []
    assert capsys.readouterr().out == f"semagram {metadata.version('semagram')}, code {commit()}\n"


UNREAD = [["train", "--help"], ["train", "--cfg", "job"], ["bench", "table=docs/results/dmc-100k.csv"]]


@pytest.mark.parametrize(
    "path",
    [
        "runs/a-1",
        "/tmp/2026-11-30_12-00-00-seed1",
        "my run",
        "été",
        "it's",
        "a,b=c!",
        "back\\slash",
        "it\\'s",
        "end\\",
        "$HOME/x",
        "[x]",
    ],
)
def test_an_argument_to_be_typed_is_read_by_shell_and_hydra_as_it_was_meant(path):
    (word,) = shlex.split(typed("resume", path))
    override = OverridesParser.create().parse_override(word)
    assert (override.key_or_group, override.value()) == ("resume", path)


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
    assert ended.returncode == 1
    assert ended.stderr.endswith("semagram: stdout: No space left on device\n")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_nothing_heavy(name):
    code = f"import sys; sys.argv = ['x', '--help']; import configs.{name} as c; c.main(); print([*sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(shown.stdout.splitlines()[-1].strip("[]").replace("'", "").split(", "))
    assert not loaded & {"torch", "numpy", "gymnasium", "hydra", "matplotlib"}


ARM = ["robot=so101", "port=/dev/no_such_port", "id=a"]


@pytest.mark.parametrize(
    ("name", "arguments", "code", "said"),
    [
        ("run", ["checkpoint=nowhere"], 2, "checkpoint=nowhere: no such folder"),
        ("evaluate", ["checkpoint=nowhere"], 2, "checkpoint=nowhere: no such folder"),
        ("serve", ["checkpoint=nowhere"], 2, "checkpoint=nowhere: no such folder"),
        (
            "run",
            ["checkpoint=.", "robot=so101-twin", "port_file=p"],
            2,
            "port_file=p: no such file; start `sema",
        ),
        ("run", ["checkpoint=.", *ARM], 1, "port=/dev/no_such_port: no such device; is the arm plugged in?"),
        ("play", ["sentence=a.json", *ARM], 1, "port=/dev/no_such_port: no such device"),
        (
            "record",
            ["dataset=d", "by=teleop", "teleop.type=so101_leader", *ARM],
            1,
            "port=/dev/no_such_port: no such device",
        ),
    ],
)
def test_what_is_not_there_is_told_before_anything_heavy_is_imported(tmp_path, name, arguments, code, said):
    program = (
        f"import sys; sys.argv = ['x', *{arguments}]\nimport configs.{name} as c\n"
        "try: c.main()\nfinally: print({'torch', 'mujoco', 'lerobot'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "set()\n", 1), done.stderr
    assert done.stderr.startswith(f"semagram: {said}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("train", ["step=10"], "step: no such key; did you mean steps"),
        ("train", ["learning.bach=10"], "learning.bach: no such key; did you mean learning.batch?"),
        ("train", ["task.max_decisions=5"], "task.max_decisions: no such key; valid here: task.name, "),
        ("train", ["spread=1"], "spread: no such key; did you mean planner.spread?"),
        ("train", ["foo.bar=1"], "foo.bar: no such key; valid here: device, "),
        ("train", ["steps=0"], "steps=0: at least 1"),
        ("train", ["steps=many"], "steps=many: a whole number"),
        ("train", ["learning.rho=2"], "learning.rho=2"),
        ("train", ["learning.learning_rate=inf"], "learning.learning_rate=inf: finite, above 0"),
        ("train", ["planner.deadline_ms=inf"], "planner.deadline_ms=inf: finite, at least 0"),
        ("train", ["task=so101-touch", "task.state=joints"], "task.state=joints: nothing shows where things are"),
        ("train", ["model.latent=100000000"], "model.latent=100000000: from 1 to 16384"),
        ("train", ["model.bins=100000000"], "model.bins=100000000: from 3 to 1024"),
        ("train", ["learning.batch=100000000000000"], "learning.batch=100000000000000: from 1 to 65536"),
        ("train", ["planner.samples=100000000"], "planner.samples=100000000: from 2 to 65536"),
        ("train", ["planner.horizon=100000000"], "planner.horizon=100000000: from 1 to 100"),
        ("train", ["model.token.length=100000000"], "model.token.length=100000000: from 1 to 1000"),
        ("train", ["replay.capacity=100000000000000"], "replay.capacity=100000000000000: from 1 to 1000000000"),
        ("train", ["envs=100000"], "envs=100000: from 1 to 1024"),
        ("train", ["threads=100000"], f"threads=100000: at most {os.cpu_count()}, the cores of this machine"),
        ("train", ["planner.elites=100"], "planner.elites=100: from 1 to "),
        ("train", ["vision=large"], "vision: removed: "),
        ("train", ["model.rank=2"], "model.rank: removed: "),
        ("train", ["model.vision.pach=3"], "model.vision.pach: no such key; did you mean model.vision.patch?"),
        ("train", ["model.vision.patch=0"], "model.vision.patch=0: at least 1"),
        ("train", ["model.vision.patch=4"], "model.vision.patch: only with a camera among the senses"),
        ("bench", ["image_size=32"], "image_size: only with a camera among the senses"),
        (
            "train",
            ["senses=[images.a:96,images.b:48x64]", "image_size=64"],
            "image_size: each camera of senses=[images.a:96,images.b:48x64] has its own size; leave it out",
        ),
        ("train", ["task=walker-wlak"], "no such task; close to it: walker-walk"),
        ("train", ["--multirun", "seed=1,2"], "--multirun: a command makes one run; semagram-bench makes many"),
        ("train", ["-m", "seed=1"], "-m: a command makes one run"),
        ("train", ["--multi", "seed=1"], "--multi: a command makes one run"),
        ("train", ["hydra.mode=MULTIRUN", "seed=1"], "hydra.mode=MULTIRUN: a command makes one run"),
        ("train", ["task=null"], "task.name=null: no such task; close to it: "),
        ("train", ["task=[walker-run,walker-walk]"], "task.name=[walker-run,walker-walk]: no such task; close to it: "),
        ("train", ["~task"], "task.name=: no such task"),
        ("train", ["task="], "task.name=: no such task"),
        ("train", ["token=line3"], "token=line3: one of line2, line4, step"),
        ("bench", ["token=line3"], "token=line3: one of line2, line4, step"),
        (
            "train",
            ["task=so101-touch", "token=line4", "task.control=absolute"],
            "task.control=absolute: tied with model.token.joined=true",
        ),
        ("train", ["token=line4", "model.token.degree=2"], "model.token.degree=2: from 0 to 1 (model.token.knots - 1)"),
        ("evaluate", ["checkpoint=a", "randomise=null"], "randomise=null: one of mild, off, strong"),
        ("bench", ["peer=null"], "peer=null: one of none, tdmpc2"),
        ("train", ["task=gym"], "task.id=: the Gymnasium environment"),
        ("train", ["task=gym", "task.id=Pendulam-v1"], "close to it: Pendulum-v1"),
        ("train", ["task=gym", "task.id=CartPole-v1"], "CartPole-v1: its actions are Discrete(2)"),
        (
            "train",
            ["task=gym", "task.id=Pendulum-v1", "task.action_repeat=3", "model.token.length=500"],
            "model.token.length=500 model.token.knots=1: 75 s; a motion lasts from 0.001 to 60 s",
        ),
        (
            "train",
            ["task=gym", "task.id=Pendulum-v1", "model.token.length=300", "model.token.knots=300"],
            "model.token.length=300 model.token.knots=300: 300 control points; a motion has at most 256",
        ),
        ("train", ["task=multi"], "task.names=[]: two or more different tasks, e.g. task=multi task.names="),
        (
            "train",
            ["task=multi", "task.names=[walker-walk,walker-run]"],
            "senses=[state]: [...,language] with task=multi",
        ),
        (
            "train",
            ["task=multi", "task.names=[walker-walk,cheetah-run]", "senses=[state,language]"],
            "cheetah-run have different observations",
        ),
        ("evaluate", ["checkpoint=run", f"sentence={'a' * 500}"], "sentence: 500 characters; at most 120"),
        (
            "train",
            ["task=multi", "task.names=walker-walk"],
            "task.names=walker-walk: a list, e.g. task.names=[walker-walk]",
        ),
        ("train", ["task.names=[walker-run]"], "task.names=[walker-run]: only with task=multi"),
        ("train", ["task.sentence=1"], "task.sentence=1: text"),
        ("train", ["task.sentence=up"], "task.sentence=up: nothing hears it; senses=[...,language]"),
        ("train", ["model.token.joined=true"], "model.token.joined=true: not with model.token.degree=0"),
        (
            "train",
            [
                "task=so101-touch",
                "task.control=absolute",
                "model.token.length=4",
                "model.token.knots=2",
                "model.token.degree=1",
                "model.token.joined=true",
            ],
            "task.control=absolute: tied with model.token.joined=true",
        ),
        ("train", ["device=cuda:9"], "device=cuda:9: CUDA devices here: 0"),
        ("train", ["device=cuda:256"], "device=cuda:256: one of cpu, cuda, auto"),
        ("train", [f"learning.batch=1{'0' * 400}"], ": from 1 to 65536"),
        ("train", ["planner.anchor=1e39"], "planner.anchor=1e+39: from 0 to 1000000.0"),
        ("train", ["--m", "seed=1,2"], "--m: a command makes one run"),
        ("train", ["+hydra.mode=MULTIRUN", "seed=1,2"], "hydra.mode=MULTIRUN: a command makes one run"),
        ("train", ["device=cpu:x"], "device=cpu:x: one of cpu, cuda, auto"),
        ("train", ["envs=2", "replay.capacity=7"], "replay.capacity=7: at least 8, 4 for each of envs=2"),
        ("train", ["senses=[images.camera]", "replay.frames=2"], "replay.frames=2: at least 4"),
        ("train", ["resume=nowhere"], "resume=nowhere: not a run folder"),
        ("train", ["randomise.gans=1"], "randomise.gans: no such key; did you mean randomise.gains?"),
        ("run", ["task=foo"], "task: no such key; valid here: robot, "),
        ("tokens", ["randomise=mild"], "randomise: no such key; valid here: ids, "),
        ("evaluate", ["planner.together=0.5"], "planner.together: removed: "),
        ("record", ["tsk=touch"], "tsk: no such key; did you mean task?"),
        ("bench", ["peer.pth=1"], "peer.pth: no such key; did you mean peer.path or "),
        ("train", ["task=multi", "task.names=5"], "task.names=5: a list, e.g. task.names=[a,b]"),
        ("train", ["task=multi", "task.names=[1,2]"], "task.names=1: text"),
        ("train", ["~seed"], "hydra.run.dir: Interpolation key 'seed' not found"),
        ("train", ["seed=${missing}"], "Interpolation key 'missing' not found"),
        ("train", ["senses=images.main"], "senses=images.main: a list, e.g. senses=[images.main]"),
        ("train", ["compile=true"], "compile=true: no C++ compiler here (Debian"),
        ("bench", ["out=${x}"], "Interpolation key 'x' not found"),
        ("bench", ["peer.path=../tdmpc2"], "peer.path=../tdmpc2: only with peer=tdmpc2"),
        ("bench", ["peer.decisions=5"], "peer.decisions=5: only with peer=tdmpc2"),
        ("tokens", ["draw", "dataset=a", "out=foo"], "out=foo: only of fit and demo"),
        ("tokens", ["fit", "dataset=a", "sentence=x"], "sentence=x: only of draw, not of fit"),
        ("evaluate", [], "checkpoint=: a run folder or a checkpoint"),
        ("evaluate", ["checkpoint=nowhere"], "checkpoint=nowhere: no such folder"),
        ("evaluate", ["checkpoint=nowhere", "episodes=0"], "episodes=0: at least 1"),
        ("evaluate", ["chekpoint=nowhere"], "chekpoint: no such key; did you mean checkpoint"),
        ("evaluate", ["checkpoint=.", "planner.sample=3"], "planner.sample: no such key; did you mean planner.samples"),
        (
            "evaluate",
            ["checkpoint=a", "sentence=walk, then stop"],
            "sentence=walk, then stop: a value with signs",
        ),
        ("evaluate", ["checkpoint=a", "sentence=stop!"], "needs quotes in quotes, e.g. \"sentence='a, b'\""),
        ("evaluate", ["checkpoint=a", "sentence=it's"], "sentence=it's: a value with signs such as"),
        ("evaluate", ["checkpoint=a", "drop=[state,]"], "drop=[state,]: a list does not end with a comma"),
        (
            "run",
            ["checkpoint=a", "robot_camera={a:{type:opencv}}"],
            "robot_camera: no such key; did you mean rob",
        ),
        (
            "run",
            ["checkpoint=a", "robot=so101-twin", "robot_cameras={a:{type:opencv}}"],
            "checkpoint=a: no such folder",
        ),
        ("run", ["checkpoint=a", "robot=so101-twin", "robot_cameras.a.fps=30"], "checkpoint=a: no such folder"),
        ("run", ["checkpoint=a", "robot_cameras={a:{}}"], "robot_cameras=: not with robot=so101-sim, which has"),
        ("play", [], "sentence=: a JSON file, a list of tokens"),
        ("play", ["sentence=nowhere.json"], "nowhere.json"),
        ("play", ["sentence=docs/arm.json", "checkpoint=a"], "checkpoint: no such key; valid here: robot, "),
        ("bench", ["suite=dmc-slow"], "suite=dmc-slow: one of dmc-quick, dmc-100k, dmc-ablation"),
        ("bench", ["worker=2"], "worker: no such key; did you mean workers?"),
        ("bench", ["workers=0"], "workers=0: auto, or a number"),
        ("bench", ["tasks=[walker-wlak]"], "no such task; close to it: walker-walk"),
        ("bench", ["tasks=walker-walk"], "tasks=walker-walk: a list"),
        ("bench", ["learning.rho=2"], "learning.rho=2"),
        ("bench", ["seed_steps=0"], "seed_steps=0: at least 1"),
        ("bench", ["demonstrations=5"], "demonstrations=5: only so101-touch, so101-pick-lift have a script"),
        ("bench", ["device=cuda"], "device=cuda: CUDA devices here: 0; device=cpu works"),
        ("bench", ["planner.replan_every=99"], "planner.replan_every=99: at most 5, the control steps of a plan"),
        ("bench", ["tasks=[Pendulum-v1,Pendulam-v1]"], "task.id=Pendulam-v1: no such environment is installed"),
        ("bench", ["senses=[images.foo]"], "senses=images.foo: cartpole-swingup has no such camera"),
        ("bench", ["agent=a/b"], "agent=a/b: a name without"),
        ("bench", ["peer=tdmpc2"], "peer.path=: a checkout of tdmpc2"),
        ("bench", ["peer=dreamer"], "peer=dreamer: one of none, tdmpc2"),
        ("bench", ["table=nowhere.csv"], "nowhere.csv: No such file"),
        ("bench", ["readme=README.md"], "readme=: only with table="),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(command, tmp_path, monkeypatch, name, arguments, said):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if "compile=true" in arguments:
        monkeypatch.setattr("configs.runs.assembly.compiler_works", lambda: False)
    code, out, err = command(name, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("semagram: ")
    assert said in err
    assert not [*tmp_path.iterdir()]


def test_a_mistake_ends_a_process_the_same_way(tmp_path):
    command = [sys.executable, "-m", "configs.train", "sede=3"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "semagram: sede: no such key; did you mean senses or seed?\n"
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_hides_a_package_is_named(tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").touch()
    command = [sys.executable, "-m", "configs.train", "steps=500"]  # -m looks in the current folder first
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"semagram: {tmp_path / 'envs'} hides Semagram's own package envs; ")
    assert ended.stderr.count("\n") == 1


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
        (Mistake("steps=0: at least 1"), 2, "steps=0: at least 1"),
        (ConfigError("steps=0"), 2, "steps=0"),
        (FolderError("it is damaged"), 2, "it is damaged"),
        (Refused("another task"), 2, "another task"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a"), 2, "[Errno 2] No such file: 'a'"),
        (OSError(errno.EADDRINUSE, "Address already in use"), 2, "[Errno 98] Address already in use"),
        (OSError("another twin listens there"), 2, "another twin listens there"),
        (EnvironmentFault("the reward is nan"), 2, "the reward is nan"),
        (FloatingPointError("a weight is not finite"), 2, "a weight is not finite"),
        (OSError(errno.ENOSPC, "No space left", "a"), 1, "[Errno 28] No space left: 'a'"),
        (OSError(errno.EIO, "Input/output error"), 1, "[Errno 5] Input/output error"),
        (ConnectionError("nothing answers at the port"), 1, "nothing answers at the port"),
        (EnvironmentLost("it was killed"), 1, "it was killed"),
        (Ended("stopped: driver", 3), 3, "stopped: driver"),
        (MemoryError(), 1, "no room in memory: MemoryError"),
        (RuntimeError("can't allocate memory: 9 bytes"), 1, "no room in memory: can't allocate memory: 9 bytes"),
    ],
    ids=str,
)
def test_a_mistake_and_what_may_pass_are_told_apart(ending, error, code, line):
    assert ending(error) == (code, "", f"semagram: {line}\n")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("shapes (2,) and (3,)"),
        RuntimeError("mat1 and mat2"),
        ZeroDivisionError(),
        TypeError("it"),
        KeyError(1),
    ],
)
def test_a_defect_is_not_told_as_a_mistake(ending, error):
    with pytest.raises(type(error)) as raised:
        ending(error)
    assert raised.value is error


@pytest.mark.parametrize("error", [Mistake("it"), OSError(errno.ENOSPC, "full"), FloatingPointError("nan")])
def test_who_asks_for_tracebacks_gets_that_of_a_mistake_too(ending, monkeypatch, error):
    monkeypatch.setenv("SEMAGRAM_TRACEBACK", "1")
    with pytest.raises(type(error)) as raised:
        ending(error)
    assert raised.value is error


DEFECTIVE = """
import sys
import types
from dataclasses import asdict
import configs.bench as bench
def tabulate(config):
    {}
bench.tabulate = tabulate
sys.argv = ["semagram-bench", "table=a.csv"]
bench.main()
"""


@pytest.mark.parametrize(
    ("defect", "line"),
    [
        ("import numpy; numpy.zeros(2) + numpy.zeros(3)", "ValueError: operands could not be broadcast together"),
        ("{}['lost']", "KeyError: 'lost'"),
    ],
)
def test_a_defect_ends_a_process_with_its_traceback(tmp_path, defect, line):
    command = [sys.executable, "-c", DEFECTIVE.format(defect)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Traceback (most recent call last):" in ended.stderr and "in tabulate" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(line)
    assert not [*tmp_path.iterdir()]


def test_only_the_folders_that_it_made_are_removed(command, tmp_path):
    (tmp_path / "mine").mkdir()
    for place in ("mine", "mine/run", "mine/more/run"):
        code, _, err = command("train", f"hydra.run.dir={place}", "steps=0")
        assert (code, err.count("\n")) == (2, 1)
        assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_a_folder_that_cannot_be_removed_does_not_hide_the_mistake(command, monkeypatch):
    def busy(_):
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr("pathlib.Path.rmdir", busy)
    assert command("train", "steps=0")[2] == "semagram: steps=0: at least 1\n"


def test_values_of_the_wrong_kind_are_refused():
    keys = asdict(BenchConfig())
    for name, value in (("seeds", 1.5), ("workers", "many"), ("tasks", [1]), ("video", 1), ("out", 3), ("planner", 1)):
        with pytest.raises(ConfigError, match=name):
            build(BenchConfig, keys | {name: value})
    assert build(BenchConfig, keys | {"workers": 3, "seeds": None, "table": ["a", "b"]}).table == ["a", "b"]


def spent():
    """Seconds of processor time that ended child processes used: of the clock's, others may take what they like."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("name", ["train", "bench"])
def test_a_token_by_its_name_is_the_token_of_its_keys(name):
    keys = "length=4", "knots=2", "degree=1", "joined=true"
    named, keyed = (store.composed(name, words) for words in (["token=line4"], [f"model.token.{key}" for key in keys]))
    assert named == keyed
    assert named != store.composed(name, [])


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_while_a_command_is_imported_is_one_line(monkeypatch, capsys, name):
    class Importing(types.ModuleType):
        def __getattr__(self, attribute):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "configs.command", Importing("configs.command"))
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"configs.{name}").main()
    assert stop.value.code == 130 and capsys.readouterr().err == "semagram: interrupted\n"
