"""semagram-record: what is called safe is safe, what is stored was sent, and when it was."""

import errno
import json
import os
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pyarrow import parquet

from configs.arm.recording import RecordSession, ending
from configs.reporting import Ended
from configs.runs.frames import Frames
from robot.datasets import DatasetError
from robot.loop import Driver, Loop
from robot.modeling_semagram import framed
from robot.recording import MEASURED, SCENE, SUCCESS, Parts, mark
from robot.safety.limits import ARM
from robot.settings import RecordConfig
from robot.ticks import Ticks
from worldmodel.errors import UserError
from worldmodel.observation import Observation

KILLS = Path(__file__).parent / "bench" / "kills.py"
CAREFUL_RATE = 30.0  # degrees a second: the gate's careful limit, a quarter of what the script asks for


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two episodes, then a third by the same settings, then one of them again elsewhere; and two with cameras."""
    folder = tmp_path_factory.mktemp("record")

    def record(name, **keys):
        config = RecordConfig(dataset=str(folder / name), seconds=1.0, limits="careful", **keys)
        return RecordSession(config).run()

    results = [record("touch", episodes=number) for number in (2, 3)]
    record("again", episodes=1, sim_task="so101-touch")
    before = os.sched_getscheduler(0)
    record("seen", episodes=2, cameras=["overhead", "wrist"])
    assert os.sched_getscheduler(0) == before  # the video encoder takes real time for itself where it may
    return folder, results


def column(folder, name):
    rows = parquet.read_table(next((folder / "data").glob("*/*.parquet")), columns=["episode_index", name]).to_pydict()
    return np.array(rows["episode_index"]), np.array(rows[name])


def episodes(folder):
    return parquet.read_table(next((folder / "meta" / "episodes").glob("*/*.parquet"))).to_pydict()


def test_lerobot_reads_it_and_the_last_line_says_what_is_there(recorded):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    folder, (first, then) = recorded
    read = LeRobotDataset("local/touch", root=folder / "touch")
    assert (first["episodes"], then["episodes"]) == (2, 3) == (2, read.num_episodes)
    assert (len(read), read.fps, read[len(read) - 1]["task"]) == (then["frames"], 30, "Touch the red cube.")
    assert Path(then["picture"]).read_bytes()[1:4] == b"PNG"
    assert then["control_hz"] == pytest.approx(30, abs=0.01) and then["late_frames"] == 0
    assert then["success_rate"] == pytest.approx(np.mean(episodes(folder / "touch")["success"]), abs=1e-3)
    assert not list(folder.glob(".*"))


def test_what_the_cameras_showed_is_there(recorded):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    read = LeRobotDataset("local/seen", root=recorded[0] / "seen")
    for name in ("overhead", "wrist"):
        for at in (0, len(read) - 1):
            frame = read[at][f"observation.images.{name}"]
            assert frame.shape[0] == 3 and float(frame.std()) > 0.05


def test_an_agent_perceives_its_frames_as_goals_and_those_of_success_as_examples(recorded, toys, tmp_path):
    """By its cameras alone, as the arm's readings are not the state of a task; a frame stands for a still moment."""
    eye = "observation.images.wrist"
    model = toys.tiny_model({"observation.state": (3,), eye: (32, 32, 3)}, 4)
    frames = Frames.read(recorded[0] / "seen")
    row = frames.row(1, 4)
    z = frames.latents([row, row + 1], model)
    picture = framed(frames.dataset[row][eye][None], 32, 32)
    seen = Observation.of(model.senses, {eye: picture}).with_values({eye: torch.stack([picture, picture], 1)})
    assert torch.equal(z[:1], model.encode(model.preprocess(seen))) and not torch.equal(z[0], z[1])
    numbers, done = column(recorded[0] / "seen", SUCCESS)
    assert row == np.flatnonzero(numbers == 1)[4]
    assert [len(frames.of_success(each, model)) for each in (True, False)] == [done.sum(), (~done).sum()]
    marked = shutil.copytree(recorded[0] / "seen", tmp_path / "marked")
    mark(marked, {0: False, 1: True})  # what a person says counts before what was recorded
    last = numbers == 1
    good = int(done[last].sum()) or 1
    assert [len(Frames.read(marked).of_success(each, model)) for each in (True, False)] == [good, len(done) - good]
    for episode, step, says in ((1, 99, "step 99 of episode 1: it has 30 steps"), (7, 0, "there are episodes 0 to 1")):
        with pytest.raises(UserError, match=says):
            frames.row(episode, step)
    with pytest.raises(UserError, match=r"observation\.state has 6 numbers here, 3 where"):
        Frames.read(recorded[0] / "touch").latents([0], model)
    with pytest.raises(UserError, match="missing"):
        Frames.read(recorded[0])


def test_the_action_is_what_the_gate_let_through(recorded):
    numbers, actions = column(recorded[0] / "touch", "action")
    for number in range(3):
        rates = np.abs(np.diff(actions[numbers == number], axis=0)) * 30
        assert 0.8 * CAREFUL_RATE < rates[:, :5].max() <= CAREFUL_RATE * 1.001


def test_each_step_has_its_own_time_and_each_episode_its_seed(recorded):
    numbers, seconds = column(recorded[0] / "touch", MEASURED)
    for number in range(3):
        assert seconds[numbers == number][0] == pytest.approx(0, abs=1e-4)
        np.testing.assert_allclose(np.diff(seconds[numbers == number]), 1 / 30, atol=1e-3)
    table = episodes(recorded[0] / "touch")
    assert len(set(table["seed"])) == 3 and table["by"] == ["expert"] * 3
    assert table["episode_index"] == [0, 1, 2]
    _, done = column(recorded[0] / "touch", SUCCESS)
    assert [bool(done[numbers == number].any()) for number in range(3)] == table["success"]


def test_the_same_seed_records_the_same(recorded):
    folder = recorded[0]
    for name in ("action", "observation.state"):
        numbers, values = column(folder / "touch", name)
        np.testing.assert_array_equal(values[numbers == 0], column(folder / "again", name)[1])


@pytest.mark.slow
def test_nothing_that_was_safe_is_lost_to_a_kill(tmp_path):
    found = runpy.run_path(str(KILLS))["killed"]("ours", tmp_path, 3)
    assert found["wrong"] == [] and found["while_recording"] > 0


def test_what_is_kept_is_what_reached_the_servos(arms, monkeypatch, tmp_path):
    """Through LeRobot's own driver, down to the packets."""
    far = Driver()
    far.goal = lambda reading, last: np.radians([80.0, 0, 0, 0, 0, 0])

    def keep(step):
        kept.append((step.action["shoulder_pan.pos"], step.at_s, step.success))

    arm, kept, decided = arms.WiredArm(tmp_path, monkeypatch.setattr), [], []
    send = arm.robot.send_action
    monkeypatch.setattr(arm.robot, "send_action", lambda action, at: decided.append(at) or send(action, at))
    with arm.robot:
        assert Loop(arm.robot, ARM, Ticks(30, arm.clock), [keep]).episode(far, 30) is None
        goal = arm.chain.servos[1]["Goal_Position"]
    sent, at_s, success = map(np.array, zip(*kept, strict=True))
    assert len(sent) == 30 and set(success) == {None}
    assert np.allclose(np.diff(decided), np.diff(at_s))  # a goal is as old as what it was decided from
    assert goal == pytest.approx(2047.5 + sent[-1] * 4095 / 360, abs=1.1)
    assert 5 < sent[-1] < CAREFUL_RATE and (np.diff(sent) <= CAREFUL_RATE * np.diff(at_s) + 0.1).all()


FEATURES = {"action": {"dtype": "float32", "shape": (6,), "names": None}}


def dataset(path, **changes):
    (path / "meta").mkdir(parents=True)
    own = {"index": {"dtype": "int64", "shape": [1], "names": None}}  # what LeRobot adds itself
    info = {"codebase_version": "v3.0", "fps": 30, "robot_type": "arm", "total_episodes": 2}
    info |= {"features": FEATURES | own} | changes
    (path / "meta" / "info.json").write_text(json.dumps(info))


def parts(path):
    return Parts(path / "a", FEATURES, 30, "arm")


def test_one_process_at_a_time(tmp_path):
    with parts(tmp_path), pytest.raises(DatasetError, match=r"a: another process is recording to it$"), parts(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_part_that_was_merged_before_a_kill_is_not_merged_again(tmp_path):
    dataset(tmp_path / "a")
    for number in (1, 2):
        dataset(tmp_path / ".a.parts" / f"{number:06d}", total_episodes=1)
    with parts(tmp_path) as store:
        assert store.finished == 3
        assert [path.name for path in store.folder.glob("0*")] == ["000002"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fps": 50}, r"a: its fps is 50, not 30; choose a new folder$"),
        ({"features": FEATURES | {"x": FEATURES["action"]}}, r"a: has x, too; record that here as well, or choose"),
        ({"features": {"action": {"dtype": "float32", "shape": [7]}}}, r"the shape of its action is \[7\], here \[6\]"),
        ({"total_episodes": "x"}, r"info\.json: not the description of a LeRobotDataset"),
    ],
)
def test_a_dataset_of_another_kind_is_refused(tmp_path, changes, says):
    dataset(tmp_path / "a", **changes)
    with pytest.raises(DatasetError, match=says), parts(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_ends_it_with_what_is_safe_and_another_error_stays_what_it_is(tmp_path):
    store = SimpleNamespace(finished=2)
    said = rf"^{tmp_path}: No space left on device; 2 episodes are safe, the same command goes on$"
    with pytest.raises(Ended, match=said) as ended, ending(tmp_path, store):
        raise OSError(errno.ENOSPC, "Error writing bytes to file")
    assert ended.value.code == 1
    with pytest.raises(PermissionError), ending(tmp_path, store):
        raise PermissionError(errno.EACCES, "Permission denied", "d")


def test_a_simulated_recording_tells_the_state_of_its_scene(recorded):
    """What the task's environment would have shown: the joints are those read, to the encoders' tick."""
    info = json.loads((recorded[0] / "touch" / "meta" / "info.json").read_text())["features"][SCENE]
    _, scene = column(recorded[0] / "touch", SCENE)
    _, read = column(recorded[0] / "touch", "observation.state")
    at = [info["names"].index(f"joint_positions[{i}]") for i in range(6)]
    np.testing.assert_allclose(np.degrees(scene[:, at[0]]), read[:, 0], atol=0.1)
    assert info["shape"] == [scene.shape[1]] and np.isfinite(scene).all() and len(set(info["names"])) == len(scene[0])
