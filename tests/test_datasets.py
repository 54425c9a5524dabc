"""LeRobotDatasets: what LeRobot writes is read, and a broken one is refused in one line."""

import json
import shutil

import numpy as np
import pytest
from pyarrow import parquet

from robot.datasets import DatasetError, read

NAMES = ("shoulder.pos", "gripper.pos")


EPISODES = [np.random.default_rng(n).normal(size=(n, 2)).astype(np.float32) for n in (5, 7, 4)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A dataset of LeRobot's own."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    folder = tmp_path_factory.mktemp("sets") / "arm"
    features = {"action": {"dtype": "float32", "shape": (2,), "names": [*NAMES]}}
    dataset = LeRobotDataset.create("local/arm", 25, features, root=folder, use_videos=False)
    for episode in EPISODES:
        for action in episode:
            dataset.add_frame({"action": action, "task": "wave"})
        dataset.save_episode()
    dataset.finalize()
    return folder


def test_what_lerobot_wrote_is_read(written):
    again = read(written)
    assert again.names == NAMES and again.rate_hz == 25
    assert [e.tolist() for e in again.episodes] == [e.tolist() for e in EPISODES]
    assert all(e.dtype == np.float32 for e in again.episodes)


def test_what_is_no_dataset_is_refused(tmp_path):
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
    assert [e[:, 0].tolist() for e in again.episodes] == [e[:, 0].tolist() for e in EPISODES]
    assert again.names == (("hand",) if names else ("action.0",))
