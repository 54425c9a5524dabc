"""Learning from recordings: they are shown as the task's environment would, learned from, resumed, and refused."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet
from scipy.spatial.transform import Rotation

from configs.arm.live import WebView
from configs.arm.recording import RecordSession
from configs.runs.explaining import why
from configs.runs.held_out import auc
from configs.runs.nearby import Nearby
from configs.runs.recordings import as_recordings, recorded
from configs.schema import TrainConfig, WhyConfig
from configs.train import train
from envs.arm import known, labels
from envs.make import STATE_ALONE, make
from envs.settings import TaskConfig
from envs.state_estimator import StateEstimator
from policies.planner_link.messages import Question, Ready, encode
from policies.storage.checkpoint import find_checkpoint, newest, read_spec, read_tensors
from policies.tokens.curves import Curve
from policies.training.offline import OfflineTrainer
from robot.checking import check
from robot.datasets import DatasetError
from robot.recorded import episodes_of
from robot.recording import mark
from robot.settings import RecordConfig
from sim.so101 import scene
from worldmodel.errors import UserError
from worldmodel.observation import Observation
from worldmodel.replay import Replay
from worldmodel.senses import STATE_KEY

TASK = TaskConfig("so101-touch", reward="success")
SENSES = {STATE_KEY: (37,)}
FRONT = "observation.images.overhead"
SPEEDS = slice(15, 21)
PARTS = ("joint_positions", "end_effector_pose", "object_pose", "object_offset")
STEPS = "data/chunk-000/file-000.parquet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three demonstrations of touching the cube."""
    path = tmp_path_factory.mktemp("recordings") / "touch"
    RecordSession(RecordConfig(dataset=str(path), episodes=3)).run()
    return path


@pytest.fixture
def altered(folder, tmp_path):
    """A copy of the recording with other columns, episode marks or description."""

    def alter(change=lambda info: None, rows=lambda table: table, marks=lambda table: table):
        path = tmp_path / "other"
        shutil.copytree(folder, path)
        for name, with_what in ((STEPS, rows), ("meta/episodes/chunk-000/file-000.parquet", marks)):
            parquet.write_table(with_what(parquet.read_table(path / name)), path / name)
        info = json.loads((path / "meta/info.json").read_text())
        change(info)
        (path / "meta/info.json").write_text(json.dumps(info))
        return path

    return alter


def column(table, name, values):
    at = table.column_names.index(name)
    return table.set_column(at, name, [values])


def seeds(path):
    return parquet.read_table(next((path / "meta/episodes").glob("*/*.parquet")))["seed"].to_pylist()


@pytest.mark.parametrize("control", ["delta", "absolute"])
def test_the_recorded_actions_lead_where_the_recording_says(folder, control):
    """From the same layout, the task's environment shows the same, speeds but roughly, and succeeds where it did."""
    task = replace(TASK, control=control)
    own = as_recordings(task, SENSES, [str(folder)], 1)
    env = make(task, senses=STATE_ALONE)
    for seed, each in zip(seeds(folder), own.shown, strict=True):
        state, _ = env.reset(seed=seed)
        for at, action in enumerate(each.action):
            told = each.observation.values[STATE_KEY][at].numpy()
            np.testing.assert_allclose(np.delete(state[STATE_KEY], SPEEDS), np.delete(told, SPEEDS), atol=5e-3)
            np.testing.assert_allclose(state[STATE_KEY][SPEEDS], told[SPEEDS], atol=0.3)
            state, reward, *_ = env.step(action.numpy())
            if at < len(each.action) - 1:  # the last step's success counts with the one before
                assert reward == each.reward[at]
        assert each.reward.any() and each.imitated.all()
    env.close()


def test_an_arm_that_reports_its_joints_alone_is_seen_as_semagram_run_sees_it(folder, altered):
    """Positions and the lag behind the targets are exact, speeds near those of the simulation."""
    joints = replace(TASK, state="joints")
    known = as_recordings(joints, {STATE_KEY: (25,)}, [str(folder)], 1).shown[0].observation.values[STATE_KEY]
    path = altered(lambda info: info["features"].pop("observation.environment_state"))
    told = as_recordings(joints, {STATE_KEY: (25,)}, [str(path)], 1).shown[0].observation.values[STATE_KEY]
    np.testing.assert_allclose(told[:, 7:13], known[:, 7:13], atol=2e-3)  # joint_positions, after the hand's pose
    assert (told[:, 13:19] - known[:, 13:19]).abs().mean() < 0.1 * known[:, 13:19].abs().mean() + 0.05


def turned(quaternion):
    """The matrices (T, 3, 3) of quaternions (T, 4), w first."""
    return Rotation.from_quat(quaternion[:, [1, 2, 3, 0]]).as_matrix()


@pytest.mark.parametrize("control", ["delta", "absolute"])
def test_copies_of_an_episode_are_scenes_that_the_arm_could_be_in_and_lead_back_to_its_path(folder, control):
    """The hand is where the joints say; to the hand, a turned cube looks the same; targets follow from the actions."""
    task = replace(TASK, control=control)
    shown = as_recordings(task, SENSES, [str(folder)], 1).shown[0]
    names = labels(known(scene.components(task.name), "full"))
    at = {part: [i for i, name in enumerate(names) if name.startswith(part)] for part in PARTS}
    estimator = StateEstimator(task)
    estimator.lay_out(0)
    made = Nearby(names, estimator, 30.0, Curve.of(2, 2, 1, 6))
    state, targets = shown.observation.values[STATE_KEY].numpy(), made.targets
    goals = np.stack([targets.next(*step) for step in zip(shown.before, shown.action.numpy(), strict=True)])
    copy, action, token = made.copy(state, shown.before, goals, np.random.default_rng(0))
    copy, shift = copy.numpy(), copy.numpy()[:, at["joint_positions"]] - state[:, at["joint_positions"]]
    rotation = turned(copy[:, at["object_pose"][3:]]) @ turned(state[:, at["object_pose"][3:]]).transpose(0, 2, 1)
    np.testing.assert_allclose(rotation, rotation[:1].repeat(len(rotation), 0), atol=1e-5)
    turn = Rotation.from_matrix(rotation[0]).as_rotvec()[2] * estimator.first_axis[1]
    off = shift - [turn, 0, 0, 0, 0, 0]
    assert abs(turn) > 0.2 and 0.001 < np.abs(off).mean() < 0.03
    hand, cube = (copy[:, at[part]] for part in ("end_effector_pose", "object_pose"))
    for seen, joints in zip(hand, copy[:, at["joint_positions"]], strict=True):
        assert np.abs(seen[:3] - estimator.hand(joints)[:3]).max() < 2e-3  # recorded a physics step before the joints
    np.testing.assert_allclose(copy[:, at["object_offset"]], cube[:, :3] - hand[:, :3], atol=1e-6)
    last = shown.before[0] + shift[0]
    for t, goal in enumerate(goals):
        last = targets.next(last, action[t].numpy())
        np.testing.assert_allclose(last[:5], (goal + shift[t + 1])[:5], atol=1e-4)  # the gripper stops at its limit
    wanted = made.curve.decode(token).numpy()
    for t in range(len(goals) - 2):
        first = targets.next(goals[t - 1] + shift[t], wanted[t, 0]) if t else goals[0] + shift[0]
        second = targets.next(first, wanted[t, 1]) - goals[t + 1] - [turn, 0, 0, 0, 0, 0]
        if t and (np.abs(wanted[t]) < 0.99).all():
            np.testing.assert_allclose(second[:5], off[t][:5] * math.exp(-2 / 30 / 0.13), atol=1e-3)
    estimator.close()


def test_what_the_hand_holds_goes_along_when_a_copy_strays_and_then_the_arm_strays_farther():
    task = TaskConfig("so101-pick-lift")
    estimator = StateEstimator(task)
    estimator.lay_out(0)
    names = labels(known(scene.components(task.name), "full"))
    at = {part: [i for i, name in enumerate(names) if name.startswith(part)] for part in (*PARTS, "grasp_state")}
    begun, ended = np.array([0.0, -0.6, 0.6, 0.9, 0.2, 0.3]), np.array([0.0, -1.0, 0.6, 0.9, 0.2, 0.1])
    joints = begun + np.clip((np.arange(120)[:, None] - 60) / 30, 0, 1) * (ended - begun)
    state = np.zeros((120, len(names)))
    state[:, at["joint_positions"]] = joints
    state[:, at["end_effector_pose"]] = [estimator.hand(each) for each in joints]
    state[:, at["object_pose"]] = state[:, at["end_effector_pose"]]
    state[:, at["grasp_state"]] = (np.arange(120) > 55)[:, None]
    held = state[:, at["object_pose"][2]] > state[:, at["object_pose"][2]].min() + 0.008
    assert 20 < held.sum() < 70
    made, off, apart = Nearby(names, estimator, 30.0, Curve.of(1, 1, 0, 6)), [], []
    for seed in range(5):
        copy = made.copy(state, joints[:-1], joints[1:], np.random.default_rng(seed))[0].numpy()
        hand, thing = copy[:, at["end_effector_pose"]], copy[:, at["object_pose"]]
        apart.append(np.linalg.norm(thing[:, :3] - hand[:, :3], axis=1))
        bent = turned(hand[:, 3:]).transpose(0, 2, 1) @ turned(thing[:, 3:])
        np.testing.assert_allclose(bent[held], np.eye(3)[None].repeat(held.sum(), 0), atol=1e-5)
        np.testing.assert_allclose(copy[:, at["object_offset"]], thing[:, :3] - hand[:, :3], atol=1e-6)
        off.append(np.abs(copy[:, at["joint_positions"][1:5]] - joints[:, 1:5]).mean(1))
    assert np.max(np.array(apart)[:, held]) < 1e-6 < np.mean(np.array(apart)[:, ~held])
    assert np.mean(np.array(off)[:, -30:]) > 2.5 * np.mean(np.array(off)[:, :55]) > 0
    estimator.close()


def test_an_arm_that_rests_where_the_task_is_done_goes_on_resting(folder):
    whole = as_recordings(TASK, SENSES, [str(folder)], 1).shown
    told = recorded(_config(folder, copies=2), SENSES)
    for each in told.shown:
        plain = next(other for other in whole if other.episode.number == each.episode.number)
        more = len(each.action) - len(plain.action)
        assert more == 45 and (each.action[-more:] == 0).all() and (each.reward[-more:] == each.reward[-1]).all()
        assert len(each.observation) == len(each.action) + 1 == len(each.before) + 1
    assert len(told.nearby) == 2 * len(told.shown)


def tiny(toys, folder, path, *more):
    """Train a tiny agent."""
    keys = [key for key in toys.tiny_keys if not key.startswith(("seed_steps", "evaluation"))]
    return train([f"data={folder}", *keys, "held_out=0.3", *more], path)


def tensors(run):
    path = newest(run / "checkpoints")
    return read_tensors(path / "model.safetensors"), path


def test_offline_run_resumes_to_the_bit_evaluates_and_goes_on_in_simulation(toys, folder, tmp_path, command):
    whole = tiny(toys, folder, tmp_path / "whole", "steps=24")
    assert (whole["episodes_recorded"], whole["episodes_held_out"], whole["updates"]) == (3, 1, 24)
    assert 0 < whole["held_out_action_error"] < 1 and 0 <= whole["held_out_value_auc"] <= 1
    assert whole["task"] == "so101-touch" and (tmp_path / "whole" / "held_out.png").stat().st_size > 10_000
    names = labels(known(scene.components(TASK.name), "full"))
    poses = read_spec(find_checkpoint(tmp_path / "whole")).model.poses
    assert [names[at] for at in poses] == ["end_effector_pose[0]", "object_pose[0]"]
    tiny(toys, folder, tmp_path / "parts", "steps=9")
    again = train([f"resume={tmp_path / 'parts'}", "steps=24"])
    one, _ = tensors(tmp_path / "whole")
    other, _ = tensors(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert again["held_out_action_error"] == whole["held_out_action_error"]
    judged = command(
        "evaluate", f"checkpoint={tmp_path / 'whole'}", f"data={folder}", f"hydra.run.dir={tmp_path / 'e'}"
    )
    found = json.loads(judged[1].splitlines()[-1])
    assert found["episodes_held_out"] == 1 and found["held_out_action_error"] == whole["held_out_action_error"]
    shutil.copytree(folder, tmp_path / "other")
    judged = ("evaluate", f"checkpoint={tmp_path / 'whole'}", f"hydra.run.dir={tmp_path / 'e'}")
    assert json.loads(command(*judged, f"data={tmp_path / 'other'}")[1].splitlines()[-1])["episodes_held_out"] == 3
    shutil.copytree(find_checkpoint(tmp_path / "whole"), tmp_path / "alone")  # without its run
    judged_alone = command("evaluate", "checkpoint=alone", f"data={folder}", f"hydra.run.dir={tmp_path / 'e'}")
    assert json.loads(judged_alone[1].splitlines()[-1])["episodes_held_out"] == 1
    refused = command(*judged, f"data=[{tmp_path / 'other'},{folder}]")
    assert refused[0] == 2 and f"data={folder}: {tmp_path / 'whole'} learned from it" in refused[2]
    lived = ("evaluate", f"checkpoint={tmp_path / 'whole'}", "task=so101-touch", "episodes=1", "planner.samples=4")
    few = ("planner.elites=2", "planner.policy_samples=1", f"hydra.run.dir={tmp_path / 'f'}")
    found = json.loads(command(*lived, *few)[1].splitlines()[-1])
    assert found["success_rate"] is not None and found["success_at_end_rate"] <= found["success_rate"]
    online = ("task=so101-touch", "steps=70", "seed_steps=60", f"init={tmp_path / 'whole'}", "evaluation.episodes=1")
    on = tiny(toys, folder, tmp_path / "on", *online)
    assert on["env_steps"] == 70 and on["episodes_recorded"] == 3 and on["updates"] > 0
    _, path = tensors(tmp_path / "on")
    replay = Replay.read(read_tensors(path / "replay.safetensors"), SENSES, (0,))
    told = recorded(_config(folder), SENSES)
    lengths = sum(len(each.action) for each in (*told.shown, *told.nearby))
    assert replay.demonstrated_rows().shape[1] == lengths and replay.steps >= lengths + 69


def test_a_moment_of_a_recording_is_explained_by_what_would_be_planned_there(toys, folder, tmp_path):
    tiny(toys, folder, tmp_path / "run", "steps=9")
    asked = WhyConfig(run=str(tmp_path / "run"), data=str(folder), episode=2, step=5, out=str(tmp_path / "p.html"))
    assert why(asked, tmp_path)["step"] == 5
    page = json.loads((tmp_path / "p.html").read_text().partition('id="data">')[2].partition("</script>")[0])
    (told,) = [each for each in as_recordings(TASK, SENSES, [str(folder)], 1.0).shown if each.episode.number == 2]
    assert [moment["step"] for moment in page["moments"]] == [3, 4, 5, 6, 7] and page["asked"] == 2
    for moment in page["moments"]:
        np.testing.assert_allclose(moment["recorded"], told.action[moment["step"]], atol=1e-3)
        state = [each["value"] for each in moment["inputs"]]
        np.testing.assert_allclose(state, told.observation.values[STATE_KEY][moment["step"]], rtol=1e-2, atol=1e-3)
    for wrong, line in (
        ({"episode": 3}, f"^episode=3: {folder} has 0 to 2$"),
        ({"step": 10**6}, f"^step=1000000: episode 2 of {folder} has {len(told.action)} steps$"),
    ):
        with pytest.raises(UserError, match=line):
            why(replace(asked, **wrong), tmp_path)


def test_what_a_running_arm_asks_is_explained_and_only_that(toys, folder, tmp_path):
    tiny(toys, folder, tmp_path / "run", "steps=9")
    told = as_recordings(TASK, SENSES, [str(folder)], 1.0).shown[0].observation.values[STATE_KEY][5].numpy()
    view = WebView(toys.token_settings(4), 30.0, "a run", 1)
    asked = WhyConfig(run=str(tmp_path / "run"), live=view.url, out=str(tmp_path / "p.html"))
    try:
        with pytest.raises(UserError, match=rf"^live={re.escape(view.url)}: no run asks its planner there"):
            why(asked, tmp_path)
        view.asked = encode(Question(7, False, told, frame=40))
        assert why(asked, tmp_path)["step"] == 40
        page = json.loads((tmp_path / "p.html").read_text().partition('id="data">')[2].partition("</script>")[0])
        (moment,) = page["moments"]
        np.testing.assert_allclose([each["value"] for each in moment["inputs"]], told, rtol=1e-2, atol=1e-3)
        for wrong in (Question(7, False, told[:-1]), Ready()):
            view.asked = encode(wrong)
            with pytest.raises(UserError):
                why(asked, tmp_path)
    finally:
        view.close()
    for address in (view.url, "http://127.0.0.1:port/x", "http://127.0.0.1:1/a b", "127.0.0.1"):
        with pytest.raises(UserError, match=rf"^live={re.escape(address)}: no run answers"):
            why(replace(asked, live=address), tmp_path)
    with pytest.raises(UserError, match=r"^live=: it has one decision"):
        replace(asked, step=3)


def _config(folder, **keys):
    return TrainConfig(task=TASK, data=(str(folder),), envs=0, held_out=0.3, **keys)


def test_a_failed_episode_teaches_the_policy_nothing(toys):
    """Its steps move the model and the value, but no weight of the actor."""
    made = toys.trainer(toys.slides(3))
    made.__class__ = OfflineTrainer
    state = torch.arange(18.0).view(6, 3)
    seen = Observation.of(made.learner.model.senses, {STATE_KEY: state})
    for shown, moved in ((False, False), (True, True)):
        made.replay.insert(0, seen, torch.full((5, 1), 0.5), torch.ones(5), torch.full((5,), shown))
        before = {name: p.detach().clone() for name, p in made.learner.model.named_parameters()}
        made.step()
        after = dict(made.learner.model.named_parameters())
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert any(name.startswith("actor") for name in changed) == moved
        assert any(name.startswith("value") for name in changed)


def test_an_inserted_episode_is_one_added_step_by_step(generator):
    state, action = torch.randn(5, 2, generator=generator), torch.randn(4, 1, generator=generator)
    reward, shown = torch.arange(4.0), torch.tensor([True, False, True, True])
    one, other = (Replay(7, 1, {STATE_KEY: (2,)}, 1) for _ in range(2))
    for _ in range(3):  # the second and third overwrite what is oldest
        one.insert(0, Observation.of(one.senses, {STATE_KEY: state}), action, reward, shown)
        other.start(torch.tensor([True]), Observation.of(one.senses, {STATE_KEY: state[:1]}))
        for t in range(4):
            seen = Observation.of(one.senses, {STATE_KEY: state[t + 1 : t + 2]})
            over = torch.tensor([False])
            other.add(seen, action[t : t + 1], reward[t : t + 1], over, demonstrated=shown[t : t + 1])
        assert one.steps == other.steps
        for name, value in other.state_dict().items():
            mine = one.state_dict()[name]
            if name in ("action", "reward"):  # where no step is held, anything may stand
                held = ~other.final[:, : value.shape[1]]
                assert torch.equal(mine[held], value[held]), name
            else:
                assert torch.equal(mine, value), name


def test_the_value_is_judged_by_how_often_it_ranks_rightly():
    labels = np.array([True, False, True, False])
    assert auc(np.array([3.0, 1, 4, 2]), labels) == 1 and auc(np.array([1.0, 3, 2, 4]), labels) == 0
    assert auc(np.zeros(4), labels) == 0.5 and auc(np.array([1.0, 1, 2, 0]), labels) == 0.875
    assert auc(np.zeros(2), np.array([True, True])) is None


def test_a_persons_mark_counts_before_what_the_steps_say(altered):
    """For a check as for what is learned: a bad episode never succeeds, a good one at its end where no step says so."""
    told = [False, True, False]  # whether an episode's steps tell of a success
    path = altered(
        rows=lambda table: column(table, "next.success", [told[n] for n in table["episode_index"].to_pylist()]),
        marks=lambda table: column(table, "success", [None] * 3),
    )
    for marks, rates in (({}, [0, 1, 0]), ({0: True, 1: False}, [1, 0, 0])):
        mark(path, marks)
        found, _ = episodes_of(path, {}, 1)
        assert [each.done.any() for each in found] == rates and check(path)["success_rate"] == round(sum(rates) / 3, 4)
    assert np.flatnonzero(found[0].done).tolist() == [len(found[0]) - 1]


def nan(table):
    values = [list(row) for row in table["observation.state"].to_pylist()]
    values[5][2] = math.nan
    return column(table, "observation.state", values)


def names(kind, *joints):
    return lambda info: info["features"][kind].update(names=list(joints))


BAD = {
    "another robot": (names("action", "a.pos", "b.pos"), "its action is of semagram_so101_sim, a.pos, b.pos; learned"),
    "no joint targets": (
        names("action", *("delta_x", "delta_y")),
        "its action is .*delta_x, delta_y; learned from are",
    ),
    "no state": (lambda info: info["features"].pop(STATE_KEY), "its observation.state is .*nothing"),
    "another rate": (lambda info: info.update(fps=15), "recorded at 15 Hz, not at 30"),
    "a camera that is not there": (lambda info: info["features"].pop(FRONT, None), f"has no {FRONT}"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_recording_that_does_not_fit_is_refused_in_one_line(altered, case):
    change, line = BAD[case]
    senses = SENSES | ({FRONT: (64, 64, 3)} if "camera" in case else {})
    with pytest.raises(UserError, match=line):
        as_recordings(TASK, senses, [str(altered(change))], 1)


def test_what_cannot_be_learned_from_is_refused_in_one_line(folder, altered, toys, tmp_path):
    with pytest.raises(DatasetError, match=r"episode 0, frame 5: observation\.state is not finite"):
        as_recordings(TASK, SENSES, [str(altered(rows=nan))], 1)
    shutil.rmtree(tmp_path / "other")
    slow = altered(lambda info: info.update(fps=15))
    with pytest.raises(DatasetError, match=r"other: its fps is 15, that of .*touch is 30"):
        tiny(toys, f"[{folder},{slow}]", tmp_path / "no", "steps=2")
    shutil.rmtree(tmp_path / "other")
    never = altered(marks=lambda table: column(table, "success", [False] * len(table)))
    with pytest.raises(
        DatasetError, match=r"no episode succeeds, so there is no value to learn; learning.value_coef=0"
    ):
        tiny(toys, never, tmp_path / "no", "steps=2")
    assert not (tmp_path / "no").exists()
    with pytest.raises(UserError, match=r"data=: recorded of an SO-101; task=walker-walk"):
        tiny(toys, folder, tmp_path / "no", "task=walker-walk")
    with pytest.raises(UserError, match=r"no such folder, and no dataset of this name in"):
        tiny(toys, "nowhere/here", tmp_path / "no")


def test_frames_are_decoded_once_within_a_bound(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "seen"
    keys: dict = {"cameras": ["overhead"], "camera": {"width": 64, "height": 48}, "seconds": 0.3}
    RecordSession(RecordConfig(dataset=str(path), episodes=1, **keys)).run()
    (first,), took = episodes_of(path, {FRONT: (32, 32)}, 1)
    (again,), no_time = episodes_of(path, {FRONT: (32, 32)}, 1)
    assert took > 0 == no_time and first.frames[FRONT].shape == (len(first), 32, 32, 3)
    np.testing.assert_array_equal(first.frames[FRONT], again.frames[FRONT])
    assert first.frames[FRONT].std() > 5
    room = 1.5 * first.frames[FRONT].nbytes / 1e9
    episodes_of(path, {FRONT: (16, 16)}, room)
    assert len([*(tmp_path / "cache").rglob("*.npy")]) == 2  # both fit
    episodes_of(path, {FRONT: (24, 24)}, room)
    assert [np.load(file).shape[1] for file in (tmp_path / "cache").rglob("*.npy")].count(32) == 0  # used longest ago
    with pytest.raises(DatasetError, match=r"its frames take .* GB, cache_gb="):
        episodes_of(path, {FRONT: (64, 64)}, 1e-6)
    next(Path(path, "videos").rglob("*.mp4")).write_bytes(b"not a video")
    with pytest.raises(DatasetError, match=r"a video does not decode at step 0|LeRobot cannot read it"):
        episodes_of(path, {FRONT: (40, 40)}, 1)
