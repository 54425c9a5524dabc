"""LeRobotDatasets: what is written comes back, LeRobot reads it too, and a broken one is refused in one line."""

import json
import shutil

import numpy as np
import pytest
from pyarrow import parquet

from robot.datasets import DatasetError, Recording, read, write

NAMES = ("shoulder.pos", "gripper.pos")


def recording(episodes=None):
    rng = np.random.default_rng(0)
    episodes = episodes or [rng.normal(size=(n, 2)).astype(np.float32) for n in (5, 7, 4)]
    return Recording(episodes, NAMES, 25.0)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "arm"
    write(folder, recording(), "wave")
    return folder


def test_what_was_written_comes_back_and_lerobot_reads_it(written):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    again = read(written)
    assert again.names == NAMES and again.rate_hz == 25
    assert [e.tolist() for e in again.episodes] == [e.tolist() for e in recording().episodes]
    assert all(e.dtype == np.float32 for e in again.episodes)
    assert not list(written.parent.glob(".arm*"))
    dataset = LeRobotDataset("local/arm", root=written)
    assert (len(dataset), dataset.num_episodes, dataset.fps) == (16, 3, 25)
    assert dataset[3]["action"].tolist() == pytest.approx(recording().episodes[0][3].tolist())


def test_what_interrupted_writing_is_gone_and_what_a_killed_process_left_too(tmp_path):
    """LeRobot's writer ends its files when it is collected, which is after their removal, unless closed before."""

    class Interrupted(list):
        def __iter__(self):
            yield from list.__iter__(self)
            raise KeyboardInterrupt

    for left in (".cut.999999999", ".cut.not-a-process"):
        (tmp_path / left / "data").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cut", recording(Interrupted(recording().episodes)), "wave")
    assert [path.name for path in tmp_path.iterdir()] == [".cut.not-a-process"]


def test_what_cannot_be_written_or_is_no_dataset_is_refused(written, tmp_path):
    with pytest.raises(DatasetError, match="already there"):
        write(written, recording(), "wave")
    with pytest.raises(DatasetError, match=r"12\.5 steps a second; a LeRobotDataset has a whole number"):
        write(tmp_path / "arm", Recording(recording().episodes, NAMES, 12.5), "wave")
    assert not list(tmp_path.iterdir())
    with pytest.raises(DatasetError, match="nothing: no such folder"):
        read(tmp_path / "nothing")
    with pytest.raises(DatasetError, match=r"info\.json: missing, so .* is no LeRobotDataset"):
        read(tmp_path)


def info(**changes):
    """Change the description."""

    def apply(folder):
        path = folder / "meta" / "info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


def table(change, name="file-000.parquet"):
    """Write the first file's table, changed, to the file of that name."""

    def apply(folder):
        path = next(folder.rglob("data/*/*.parquet"))
        parquet.write_table(change(parquet.read_table(path)), path.with_name(name))

    return apply


def column(name, change):
    """Change the values of a column."""
    return table(
        lambda found: found.set_column(
            found.schema.get_field_index(name),
            name,
            [[change(at, value) for at, value in enumerate(found[name].to_pylist())]],
        )
    )


DAMAGE = [
    (lambda folder: (folder / "meta" / "info.json").write_text("{"), "not the description of a LeRobotDataset"),
    (info(fps=0), r"not the description of a LeRobotDataset \(fps=0\)"),
    (info(codebase_version="v2.1"), r"codebase_version v2\.1, not v3\.x"),
    (info(features={"timestamp": {}}), "no 'action' among its features: timestamp"),
    (lambda folder: shutil.rmtree(folder / "data"), "arm/data: nothing there; semagram-data repair="),
    (lambda folder: next(folder.rglob("data/*/*.parquet")).write_bytes(b"PAR1"), r"file-000\.parquet: not readable"),
    (column("action", lambda at, row: None if at == 1 else row), "action: not numbers of one width"),
    (column("action", lambda at, row: [0.0] * 3 if at == 1 else row), "action: not numbers of one width"),
    (column("action", lambda at, row: [0.0, 1e300] if at == 6 else row), "episode 1, frame 1: action is not finite"),
    (table(lambda found: found.drop_columns("frame_index")), "arm/data: no column frame_index"),
    (table(lambda found: found.slice(0, 10)), r"arm/data: 10 steps, 16 by meta/info\.json; is it all there\?"),
    (
        lambda folder: (
            table(lambda found: found.slice(7, 2), "file-001.parquet")(folder),
            info(total_frames=18)(folder),
        ),
        "arm: episode 1, frame 2: there more than once",
    ),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGE)
def test_a_broken_dataset_is_refused_in_one_line(written, tmp_path, damage, says):
    shutil.copytree(written, tmp_path / "arm")
    damage(tmp_path / "arm")
    with pytest.raises(DatasetError, match=says) as refused:
        read(tmp_path / "arm")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("names", [["hand"], None])
def test_an_action_of_one_number_is_read_as_lerobot_writes_it(written, tmp_path, names):
    """LeRobot stores a feature of shape (1,) as numbers, not as lists of one."""
    shutil.copytree(written, tmp_path / "arm")
    column("action", lambda at, row: row[0])(tmp_path / "arm")
    info(features={"action": {"names": names}})(tmp_path / "arm")
    again = read(tmp_path / "arm")
    assert [e[:, 0].tolist() for e in again.episodes] == [e[:, 0].tolist() for e in recording().episodes]
    assert again.names == (("hand",) if names else ("action.0",))
