"""LeRobotDatasets: what is written comes back, LeRobot reads it too, and a broken one is refused in one line."""

import contextlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from pyarrow import parquet

from robot.datasets import DatasetError, Recording, read, write

NAMES = ("shoulder.pos", "gripper.pos")

LEROBOT = """
import sys, logging
logging.disable(logging.CRITICAL)
from lerobot.datasets.lerobot_dataset import LeRobotDataset
dataset = LeRobotDataset("local/arm", root=sys.argv[1])
print(len(dataset), dataset.num_episodes, dataset.fps, dataset[3]["action"].tolist())
"""


INTERRUPTED = f"""
class Interrupted(list):
    def __iter__(self):
        yield from list.__iter__(self)
        raise KeyboardInterrupt

try:
    write(Path(sys.argv[2]).with_name("cut"), Recording(Interrupted(episodes), {NAMES}, 25.0), "wave")
except KeyboardInterrupt:
    pass
"""


def recording():
    rng = np.random.default_rng(0)
    return Recording([rng.normal(size=(n, 2)).astype(np.float32) for n in (5, 7, 4)], NAMES, 25.0)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A dataset written in a process of its own: importing LeRobot leaves warnings that are not ours."""
    folder = tmp_path_factory.mktemp("sets") / "arm"
    for left in (".cut.999999999", ".cut.not-a-process"):
        (folder.parent / left / "data").mkdir(parents=True)
    np.savez(folder.parent / "arm.npz", *recording().episodes)
    body = (
        "import sys, numpy as np; from pathlib import Path; from robot.datasets import Recording, write\n"
        "episodes = list(np.load(sys.argv[1]).values())\n"
        f"write(Path(sys.argv[2]), Recording(episodes, {NAMES}, 25.0), 'wave')\n"
        + INTERRUPTED
        + LEROBOT.replace("argv[1]", "argv[2]")
    )
    ran = subprocess.run(
        [sys.executable, "-c", body, str(folder.parent / "arm.npz"), str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.getcwd()},
    )
    return folder, ran


def test_what_was_written_comes_back(written):
    again = read(written[0])
    assert again.names == NAMES and again.rate_hz == 25
    assert [e.tolist() for e in again.episodes] == [e.tolist() for e in recording().episodes]
    assert all(e.dtype == np.float32 for e in again.episodes)
    assert not list(written[0].parent.glob(".arm*"))


def test_lerobot_reads_it_and_nothing_was_printed_besides(written):
    first = recording().episodes[0]
    said = written[1].stdout.split(maxsplit=3)
    assert said[:3] == ["16", "3", "25"] and json.loads(said[3]) == pytest.approx(first[3].tolist())
    assert "examples/s" not in written[1].stderr and "torchcodec" not in written[1].stderr


def test_all_of_it_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    log, fsync, rename = [], os.fsync, os.rename

    def written(folder, *_):
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "a").write_text("steps")

    def synced(handle):
        log.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def renamed(one, other):
        log.append("rename")
        rename(one, other)

    monkeypatch.setattr("robot.datasets._write", written)
    monkeypatch.setattr("robot.datasets.quiet", contextlib.nullcontext)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    write(tmp_path / "arm", recording(), "wave")
    assert sorted(log[: log.index("rename")]) == [f".arm.{os.getpid()}", "a", "data"]
    assert log[log.index("rename") :] == ["rename", tmp_path.name]


def test_a_folder_that_is_there_is_not_overwritten(written):
    with pytest.raises(DatasetError, match="already there"):
        write(written[0], recording(), "wave")


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="nothing: no such folder"):
        read(tmp_path / "nothing")
    with pytest.raises(DatasetError, match=r"info\.json: missing, so .* is no LeRobotDataset"):
        read(tmp_path)


def rewrite(change):
    def apply(folder):
        path = folder / "meta" / "info.json"
        info = json.loads(path.read_text())
        change(info)
        path.write_text(json.dumps(info))

    return apply


def with_actions(table, actions):
    return table.set_column(table.schema.get_field_index("action"), "action", [actions])


def actions_as(change):
    def apply(folder):
        path = next(folder.rglob("data/*/*.parquet"))
        table = parquet.read_table(path)
        parquet.write_table(with_actions(table, change(table["action"].to_pylist())), path)

    return apply


def table_as(change):
    def apply(folder):
        path = next(folder.rglob("data/*/*.parquet"))
        parquet.write_table(change(parquet.read_table(path)), path)

    return apply


def column_as(name, kind):
    return table_as(
        lambda table: table.set_column(place := table.schema.get_field_index(name), name, table[place].cast(kind))
    )


def one_more_file(change):
    def apply(folder):
        path = next(folder.rglob("data/*/*.parquet"))
        parquet.write_table(change(parquet.read_table(path)), path.with_name("file-001.parquet"))

    return apply


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "meta" / "info.json").write_text("{"), "not the description of a LeRobotDataset"),
        (rewrite(lambda info: info.pop("fps")), "not the description of a LeRobotDataset"),
        (rewrite(lambda info: info.update(fps=0)), r"not the description of a LeRobotDataset \(fps=0\)"),
        (rewrite(lambda info: info["features"].update(action="x")), r"LeRobotDataset \(action=x\)"),
        (rewrite(lambda info: info.update(codebase_version="v2.1")), r"codebase_version v2\.1, not v3\.x"),
        (rewrite(lambda info: info["features"].pop("action")), "no 'action' among its features: timestamp"),
        (lambda folder: shutil.rmtree(folder / "data"), "no step was recorded"),
        (
            lambda folder: next(folder.rglob("data/*/*.parquet")).write_bytes(b"PAR1"),
            r"file-000\.parquet: not readable",
        ),
        (actions_as(lambda rows: [rows[0], None, *rows[2:]]), r"file-000\.parquet: steps that lack one of action"),
        (
            actions_as(lambda rows: [rows[0][:1], [*rows[1], 0.0], *rows[2:]]),
            "actions of 1 and 2 and 3 numbers",
        ),
        (actions_as(lambda rows: [["a", "b"]] * len(rows)), "actions are numbers, not .*string"),
        (actions_as(lambda rows: [[1e300, 0.0], *rows[1:]]), "episode 0, frame 0: not finite as float32"),
        (column_as("episode_index", "string"), r"file-000\.parquet: episode_index is a whole number, not string"),
        (column_as("frame_index", "double"), r"file-000\.parquet: frame_index is a whole number, not double"),
        (actions_as(lambda rows: [{"a": 1.0}] * len(rows)), "actions are numbers, not struct"),
        (
            table_as(lambda table: table.slice(0, 10)),
            r"arm/data: 10 steps, and 16 by meta/info\.json; is it all there\?",
        ),
        (one_more_file(lambda table: table.slice(7, 2)), "arm: episode 1, frame 2: there more than once"),
        (one_more_file(lambda table: table.slice(0, 0)), None),
        (one_more_file(lambda table: with_actions(table, [[0.0]] * len(table))), "actions of 1 and 2 numbers; all of"),
    ],
)
def test_a_broken_dataset_is_refused_in_one_line(written, tmp_path, damage, says):
    shutil.copytree(written[0], tmp_path / "arm")
    damage(tmp_path / "arm")
    if says is None:
        assert [len(e) for e in read(tmp_path / "arm").episodes] == [5, 7, 4]
        return
    with pytest.raises(DatasetError, match=says) as refused:
        read(tmp_path / "arm")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("names", [["hand"], None, 5])
def test_an_action_of_one_number_is_read_as_lerobot_writes_it(written, tmp_path, names):
    """LeRobot stores a feature of shape (1,) as numbers, not as lists of one."""
    shutil.copytree(written[0], tmp_path / "arm")
    actions_as(lambda rows: [row[0] for row in rows])(tmp_path / "arm")
    rewrite(lambda info: info["features"]["action"].update(names=names))(tmp_path / "arm")
    again = read(tmp_path / "arm")
    assert [e[:, 0].tolist() for e in again.episodes] == [e[:, 0].tolist() for e in recording().episodes]
    assert again.names == (("hand",) if names == ["hand"] else ("action.0",))


def test_what_interrupted_writing_is_gone_and_what_a_killed_process_left_too(written):
    """LeRobot's writer ends its files when it is collected, which is after their removal, unless told to before."""
    assert not (written[0].parent / "cut").exists()
    assert [path.name for path in written[0].parent.glob(".cut*")] == [".cut.not-a-process"]


def test_a_rate_that_lerobot_cannot_hold_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"12\.5 steps a second; a LeRobotDataset has a whole number"):
        write(tmp_path / "arm", Recording(recording().episodes, NAMES, 12.5), "wave")
    assert not list(tmp_path.iterdir())


def test_an_action_that_is_not_finite_is_named(written, tmp_path):
    shutil.copytree(written[0], tmp_path / "arm")
    path = next((tmp_path / "arm").rglob("data/*/*.parquet"))
    table = parquet.read_table(path)
    actions = table["action"].to_pylist()
    actions[6][1] = float("nan")
    rows = table.set_column(table.schema.get_field_index("action"), "action", [actions])
    parquet.write_table(rows, path)
    with pytest.raises(DatasetError, match="episode 1, frame 1: not finite as float32"):
        read(tmp_path / "arm")
