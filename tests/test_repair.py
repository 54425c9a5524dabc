"""semagram-data: every complete episode of a killed recording is in the copy; a check finds what was planted."""

import json
import math
import runpy
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.arm.dataset import data
from robot import repair
from robot.datasets import STEPS, DatasetError
from robot.recording import MEASURED, EpisodeInfo, Parts
from robot.settings import DataConfig
from robot.unfinished import row_groups
from sim.so101.joints import JOINTS

KILLS = Path(__file__).parent / "bench" / "kills.py"
NAMES = [f"{joint}.pos" for joint in JOINTS]
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (6,), "names": NAMES},
    "action": {"dtype": "float32", "shape": (6,), "names": NAMES},
    "observation.images.front": {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]},
    MEASURED: {"dtype": "float64", "shape": (1,), "names": None},
}


COLUMNS = {
    "a": (pyarrow.list_(pyarrow.float32(), 3), 3),
    "b": (pyarrow.bool_(), 1),
    "c": (pyarrow.int64(), 1),
    "d": (pyarrow.string(), 1),
    "e": (pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}), 1),
}


def episode(rng, rows):
    values = {
        "a": rng.normal(size=(rows, 3)).tolist(),
        "b": (rng.random(rows) < 0.5).tolist(),
        "c": rng.integers(0, 5, rows).tolist(),
        "d": [f"task {n % 2}" for n in range(rows)],
        "e": [{"bytes": rng.bytes(int(rng.integers(1, 3000))), "path": f"{n}.png"} for n in range(rows)],
    }
    schema = pyarrow.schema([(name, COLUMNS[name][0]) for name in values])
    return pyarrow.Table.from_pydict(values, schema=schema)


@given(st.lists(st.integers(1, 2500), min_size=1, max_size=4), st.permutations(list(COLUMNS)), st.floats(0, 1))
def test_of_a_file_that_was_cut_anywhere_all_whole_row_groups_are_read(lengths, order, share):
    rng, tables = np.random.default_rng(len(lengths)), []
    sink, ends = pyarrow.BufferOutputStream(), [4]
    tables = [episode(rng, rows).select(order) for rows in lengths]
    with pyarrow.parquet.ParquetWriter(sink, tables[0].schema, compression="snappy") as writer:
        for table in tables:
            writer.write_table(table)
            ends.append(sink.tell())
    written = sink.getvalue().to_pybytes()
    cut = round(share * ends[-1])
    widths = {name: width for name, (_, width) in COLUMNS.items()}
    found = list(row_groups(written[:cut], tables[0].schema, widths))
    assert len(found) == sum(end <= cut for end in ends[1:])
    assert all(a.equals(b) for a, b in zip(found, tables, strict=False))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A dataset of three episodes."""
    folder = tmp_path_factory.mktemp("whole")
    with Parts(folder / "d", FEATURES, 30, "arm") as parts:
        for number, length in enumerate((8, 12, 10)):
            with parts.episode() as draft:
                for frame in range(length):
                    joints = dict.fromkeys(NAMES, float(frame)) | {"elbow_flex.pos": 0.0}
                    late = 0.5 * (number == 0 and frame > 4)
                    sent = joints | {"elbow_flex.pos": float(frame), "wrist_flex.pos": 100.0 * (number == 1)}
                    image = np.full((64, 64, 3), 0, np.uint8)
                    image[:32] = 200 * (number != 2)
                    draft.add(joints | {"front": image}, sent, f"task {number % 2}", frame / 30 + late, None)
                draft.save(EpisodeInfo(number, bool(number), 30.0, number, "script"))
        parts.merge()
    return folder / "d"


def read(folder):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("local/x", root=folder)


def break_up(whole, folder):
    """Take from a dataset what a kill of LeRobot takes: the footers, and the table of episodes."""
    shutil.copytree(whole, folder)
    (path,) = (folder / STEPS).rglob("*.parquet")
    table = pyarrow.parquet.read_table(path)
    with pyarrow.parquet.ParquetWriter(path, table.schema, compression="snappy") as writer:
        for number in range(3):
            writer.write_table(table.filter(pyarrow.compute.equal(table["episode_index"], number)))
    data = path.read_bytes()
    path.write_bytes(data[: -8 - int.from_bytes(data[-8:-4], "little")])
    shutil.rmtree(folder / "meta" / "episodes")
    return folder


@pytest.mark.parametrize("copied", [False, True])
def test_a_video_that_was_cut_costs_its_episodes_unless_the_file_it_was_copied_from_is_there(
    whole, tmp_path, monkeypatch, copied
):
    broken = break_up(whole, tmp_path / "broken")
    videos = sorted((broken / "videos").rglob("*.mp4"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(repair.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    if copied:
        shutil.copy(videos[-1], tmp_path / "tmp" / "tmpx.mp4")
    videos[-1].write_bytes(videos[-1].read_bytes()[:-40])
    result = repair.repair(broken, tmp_path / "out")
    assert (result["dropped"] == {}) is copied
    assert read(tmp_path / "out").num_episodes == result["episodes"] == (3 if copied else 3 - len(result["dropped"]))
    there, rows = read(tmp_path / "out").hf_dataset.with_format("numpy"), read(whole).hf_dataset.with_format("numpy")
    np.testing.assert_array_equal(np.stack(there["action"]), np.stack(rows["action"])[: len(there)])


@pytest.mark.parametrize(
    ("frames", "wanted"),
    [
        ((20, 10), {0: (0, 0), 1: (0, 8), 2: (1, 0)}),
        ((20, 4), {0: (0, 0), 1: (0, 8)}),
        ((30,), {0: (0, 0), 1: (0, 8), 2: (0, 20)}),
        ((15,), {0: (0, 0)}),
        ((), {}),
    ],
)
def test_episodes_follow_each_other_from_video_to_video(tmp_path, monkeypatch, frames, wanted):
    folder = tmp_path / "videos" / "front" / "chunk-000"
    folder.mkdir(parents=True)
    files = [folder / f"file-{number:03d}.mp4" for number in range(len(frames))]
    for path in files:
        path.write_bytes(b"x")
    monkeypatch.setattr(repair, "_times", lambda path: list(range(frames[files.index(path)])))
    found = repair._clips(tmp_path, "front", {0: 8, 1: 12, 2: 10}, 30, tmp_path)
    assert {number: (files.index(clip.path), clip.start_s) for number, clip in found.items()} == wanted


def test_a_check_finds_what_is_wrong_and_marks_stay(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "d")
    found = data(DataConfig(check=str(tmp_path / "d"), mark=["0:good", "2:bad"]), tmp_path)
    assert found["wrong"] == {
        "0": ["late frames", "elbow_flex stuck"],
        "1": ["elbow_flex stuck", "wrist_flex beyond its range: 12"],
        "2": ["elbow_flex stuck", "front shows one colour: 5"],
    }
    assert math.isclose(found["success_rate"], 2 / 3, abs_tol=1e-4) and (found["episodes"], found["frames"]) == (3, 30)
    assert Path(found["picture"]).read_bytes()[1:4] == b"PNG" and json.dumps(found)
    assert read(tmp_path / "d").meta.episodes["success"] == [True, True, False]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"check": "none"}, r"none: no such folder$"),
        ({"check": "broken"}, r"file-000\.parquet: not readable; semagram-data repair=.*broken out=<copy>$"),
        ({"check": "d", "mark": ["7:bad"]}, r"d: no episode 7 to mark$"),
        ({"repair": "d", "out": "d"}, r"d: already there; what is repaired is written to a new folder$"),
        ({"repair": "empty", "out": "o"}, r"empty: no episode is complete; no step reached the disk$"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(whole, tmp_path, keys, says):
    shutil.copytree(whole, tmp_path / "d")
    broken = break_up(whole, tmp_path / "broken")
    (broken / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (broken / "meta" / "episodes" / "chunk-000" / "file-000.parquet").write_bytes(b"PAR1")
    shutil.copytree(broken, tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty" / "data")
    paths = {key: str(tmp_path / value) if key != "mark" else value for key, value in keys.items()}
    with pytest.raises(DatasetError, match=says):
        data(DataConfig(**paths), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "d", "empty"]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "check=: a dataset's folder, or repair="),
        ({"repair": "a"}, "out=: a new folder"),
        ({"check": "a", "mark": ["3:fine"]}, "mark=3:fine: <episode>:good or <episode>:bad"),
        ({"repair": "a", "out": "b", "mark": ["3:bad"]}, "mark=: with check="),
    ],
)
def test_a_wrong_key_is_one_line(keys, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        DataConfig(**keys)


@pytest.mark.slow
def test_every_episode_that_lerobot_had_saved_is_recovered_from_a_kill(tmp_path):
    found = runpy.run_path(str(KILLS))["killed"]("lerobots", tmp_path, 3)
    assert found["wrong"] == [] and found["while_recording"] > 0
