"""Laws of the benchmark of stuckness, and of an evaluation with the ladder."""

import json
from dataclasses import replace

import numpy as np
import pytest

from configs.command import composed
from configs.commands import _checkpoints
from configs.runs.evaluation import Evaluation
from configs.runs.stuck import MONITORS, _Played, interval, stuck
from configs.schema import BenchConfig, EvaluateConfig
from envs.make import make
from envs.quantities import simulation
from envs.settings import FaultConfig, TaskConfig
from envs.wrappers import CHANGED
from policies import cases
from policies.alarms import FILE, Alarms, Band
from policies.guidance.storage import sum_of_model
from policies.storage.folders import FolderError
from worldmodel import registry
from worldmodel.errors import UserError
from worldmodel.strict import ConfigError, build

STEPS = 20


def kept(checkpoint, surprise=-30.0):
    """Keep alarms with a checkpoint that are surprised by whatever exceeds this, and never behind; return them."""
    flat = (1.0,) * STEPS
    bands = {"surprise": Band((surprise,) * STEPS, flat, 1.0), "schedule": Band((100.0,) * STEPS, flat, 1.0)}
    alarms = Alarms(bands, sum_of_model(checkpoint), "cartpole-swingup", "", 0.05, 80, 80)
    alarms.keep(checkpoint)
    return alarms


@pytest.fixture(scope="module")
def checkpoint(untaught, tmp_path_factory):
    """An agent for short episodes that has learned nothing."""
    return untaught(tmp_path_factory.mktemp("stuck") / "run", TaskConfig("cartpole-swingup", max_control_steps=STEPS))


def bench(*words):
    return build(BenchConfig, composed("bench", ["suite=stuck", "compile=false", *words]))


def test_an_evaluation_with_the_ladder_tells_its_steps_and_needs_alarms(checkpoint, tmp_path):
    plain = composed("evaluate", []) | {
        "checkpoint": str(checkpoint),
        "compile": "false",
        "episodes": 2,
        "ladder": True,
    }
    (checkpoint / FILE).unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=rf"ladder=true: no {FILE} in .*calibrate="):
        Evaluation.begin(build(EvaluateConfig, plain)).run(tmp_path / "none")
    assert not (tmp_path / "none/summary.json").exists()
    kept(checkpoint)
    found = Evaluation.begin(build(EvaluateConfig, plain)).run(tmp_path / "with")
    assert {step["episode"] for step in found["ladder"]} == {0, 1}
    assert found["ladder"][0]["rung"] == "identify" and "does not answer" in found["ladder"][0]["why"]
    without = Evaluation.begin(build(EvaluateConfig, plain | {"ladder": False})).run(tmp_path / "without")
    assert without["ladder"] is None and not (checkpoint / cases.FILE).exists()
    registry.load(["docs/examples/own_tool.py"])
    Evaluation.begin(build(EvaluateConfig, plain | {"tools": ["paint"]})).run(tmp_path / "tools")
    assert cases.Uses.kept(checkpoint).all == {} and (checkpoint / cases.FILE).exists()  # only a surprise: none used
    with pytest.raises(UserError, match="calibrate=80: without ladder=true"):
        build(EvaluateConfig, plain | {"calibrate": 80})


def test_a_row_for_each_fault_and_monitor_and_what_was_played_is_not_played_again(checkpoint, tmp_path, capfd):
    (checkpoint / FILE).unlink(missing_ok=True)
    config = bench(f"checkpoints=[{checkpoint}]", "episodes=2", "fault_episodes=3", "faults=[flip@12,start@0]")
    with pytest.raises(UserError, match=f"{FILE}: not there; semagram-eval calibrate=100 makes it"):
        stuck(config, tmp_path)
    kept(checkpoint)
    first = stuck(config, tmp_path)
    assert [(row["fault"], row["monitor"]) for row in first["rows"]] == [
        ("nominal", "none"),
        ("nominal", "ours"),
        *(("flip", monitor) for monitor in MONITORS),
        ("start", "none"),
        ("start", "ours"),
    ]
    oracle = next(row for row in first["rows"] if (row["fault"], row["monitor"]) == ("flip", "oracle"))
    assert (oracle["detected"], oracle["delay_decisions"], oracle["auroc"]) == (1, 0, 1)
    ours = next(row for row in first["rows"] if (row["fault"], row["monitor"]) == ("flip", "ours"))
    assert (ours["detected"], ours["false_alarms"]) == (0, 1)  # it was surprised before anything broke
    harmless = first["rows"][-1]  # with alarms in three of three
    assert [harmless[name] for name in ("detected", "false_alarms", "false_alarms_95")] == [None, 1, "0.292 to 1.000"]
    assert (tmp_path / "stuck.csv").read_text().count("\n") == 1 + len(first["rows"])
    assert (oracle["detected_95"], oracle["success_95"] is None) == ("0.292 to 1.000", False)  # of three
    assert interval(30 / 30, 30) == "0.884 to 1.000" and interval(2 / 60, 60) == "0.004 to 0.115"
    assert json.dumps(first)  # plain data
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.json")}
    assert len(files) == 7
    capfd.readouterr()
    assert stuck(config, tmp_path) == first and {path: path.stat().st_mtime_ns for path in files} == files
    stuck(bench(f"checkpoints=[{checkpoint}]", "episodes=2", "fault_episodes=2", "faults=[flip@12]"), tmp_path)
    with pytest.raises(ConfigError, match=rf"faults=\[jam@{STEPS}\]: below {STEPS}, an episode's control steps"):
        stuck(bench(f"checkpoints=[{checkpoint}]", "episodes=2", f"faults=[flip@12,jam@{STEPS}]"), tmp_path)
    changed = {path.name for path, time in files.items() if path.stat().st_mtime_ns != time}
    assert changed == {"flip-12-none.json", "flip-12-ours.json", "flip-12-oracle.json"}


def test_what_tools_bring_is_learned_from_other_episodes_first_and_who_used_them_is_told(untaught, tmp_path):
    checkpoint = untaught(tmp_path / "run", TaskConfig("cartpole-swingup", max_control_steps=120))
    registry.load(["docs/examples/own_tool.py"])
    alarms = kept(checkpoint, surprise=100.0)
    behind = {"schedule": Band((-3.0,) * 2 + (-100.0,) * 38, (1.0,) * 40, 1.0)}
    replace(alarms, bands=alarms.bands | behind).keep(checkpoint)
    own = [f"checkpoints=[{checkpoint}]", "episodes=2", "fault_episodes=2", "faults=[jam@9]", "tools=[paint,knock]"]
    rows = stuck(bench(*own), tmp_path / "out")["rows"]
    folder = next(tmp_path.glob("out/*/jam-9-learn.json")).parent
    learn, ours = (json.loads((folder / f"jam-9-{which}.json").read_bytes()) for which in ("learn", "ours"))
    assert (learn["about"]["learned"], ours["about"]["learned"]) == ([], ["jam@9"])
    assert learn["rewards"] != ours["rewards"]  # other episodes
    assert {name: len(uses) for name, uses in learn["uses"].items()} == {"paint": 1, "knock": 1}  # one in each episode
    assert {step["why"].split(" (")[0] for step in learn["steps"] if ": " in step["why"]} >= {"paint: painted"}
    assert ours["uses"]["paint"][:1] == learn["uses"]["paint"]
    shown = {row["monitor"]: row["used"] for row in rows if row["fault"] == "jam"}
    assert shown["ours"].startswith("paint ") and "; knock " in shown["ours"] and shown["none"] == ""
    assert (tmp_path / "out/stuck.csv").read_text().splitlines()[0].split(",").count("used") == 1


def test_a_body_is_mended_by_what_mends_its_fault_and_a_dead_motor_gives_no_force():
    for kind in ("jam", "dead"):
        env = make(TaskConfig("cartpole-swingup"), fault=FaultConfig(kind, 3))
        model = simulation(env)[0]
        whole = {name: np.array(getattr(model, name)) for name in CHANGED}
        env.reset(seed=1)
        assert not env.get_wrapper_attr("mend")(kind)  # nothing is broken yet
        for _ in range(3):
            env.step(np.ones(1, np.float32))
        broken = [name for name in CHANGED if (np.array(getattr(model, name)) != whole[name]).any()]
        assert broken == [{"jam": "dof_armature", "dead": "actuator_gear"}[kind]]
        if kind == "dead":
            assert not model.actuator_gear.any()
        assert not env.get_wrapper_attr("mend")("flip") and env.get_wrapper_attr("mend")(kind)
        env.step(np.ones(1, np.float32))
        assert all((np.array(getattr(model, name)) == whole[name]).all() for name in CHANGED)
        env.close()


def test_a_file_that_another_process_leaves_mends_a_body_once_and_none_that_lies_there_before(tmp_path):
    fault = FaultConfig.of(f"jam@0:{tmp_path / 'knocked'}")
    env = make(TaskConfig("cartpole-swingup"), fault=fault)
    model = simulation(env)[0]
    whole = np.array(model.dof_armature)
    for _ in range(2):
        (tmp_path / "knocked").touch()
        env.reset(seed=1)
        for _ in range(4):
            env.step(np.ones(1, np.float32))
        assert (model.dof_armature != whole).any() and not list(tmp_path.iterdir())
        (tmp_path / "knocked").touch()
        env.step(np.ones(1, np.float32))
        assert (model.dof_armature == whole).all() and not list(tmp_path.iterdir())
    env.close()


def test_what_is_wrong_is_told_in_one_line():
    assert _checkpoints(["checkpoint=a", "suite=stuck"]) == ["checkpoints=[a]", "suite=stuck"]
    assert _checkpoints(["checkpoint=[a,b]", "checkpoint.every=3"]) == ["checkpoints=[a,b]", "checkpoint.every=3"]
    for words, line in (
        (["faults=[flip@12]"], "checkpoint=: runs or checkpoints"),
        (["checkpoints=[x]", "faults=[flip]"], r"faults=\[flip\]: one of .* and a control step"),
        (["checkpoints=[x]", "faults=[flop@3]"], "one of jam, flip, weak, load"),
    ):
        with pytest.raises(UserError, match=line):
            stuck(bench(*words), None)
    with pytest.raises(FolderError):
        stuck(bench("checkpoints=[nowhere]"), None)


def test_an_episode_is_good_by_its_end_and_wasted_until_it_is_good_for_good_or_stopped(checkpoint, tmp_path):
    alarms = kept(checkpoint)
    config = EvaluateConfig(checkpoint=str(checkpoint), compile="false")
    judge = _Played(Evaluation.begin(config), alarms, tmp_path)
    rewards = [[1.0] * 100, [1.0] * 20 + [0.0] * 30 + [1.0] * 50, [1.0] * 20 + [0.0] * 80, [1.0] * 20 + [0.0] * 80]
    steps = [{"episode": 3, "decision": 15 // judge.length, "rung": rung} for rung in ("back off", "stop")]
    success, wasted = judge.judged({"rewards": rewards, "steps": steps}, 0.8, 20)
    assert success.tolist() == [1, 1, 0, 0]
    assert wasted[0] == 0 and 0.3 <= wasted[1] <= 0.4 and wasted[2] == 0.8
    assert wasted[3] == pytest.approx((15 // judge.length * judge.length + 10 - 20) / 100)
    shy = replace(alarms, bands={name: Band((0.0, 9.0), (1.0, 1.0), 1.0) for name in alarms.bands})
    judge = _Played(Evaluation.begin(config), shy, tmp_path)
    early = {"gauges": [[[5.0, 0.0], [5.0, 0.0]], [[np.nan, np.nan], [0.0, 11.0]]]}
    assert judge.firsts("ours", early, 0).tolist() == [0, 1]
    assert judge.firsts("constant", early, 0).tolist() == [np.inf, 1]
    assert judge.auroc("ours", {"gauges": early["gauges"][:1]}, {"gauges": [[[0.5, 0.5], [0.0, 0.0]]]}) == 1
