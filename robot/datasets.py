"""LeRobotDataset folders (version 3): read the actions of one, episode by episode, or write a new one."""

import json
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from policies.storage.folders import aside_of, put
from worldmodel.errors import UserError, in_one_line

ACTION = "action"
COLUMNS = (ACTION, "episode_index", "frame_index")
VERSION = "v3."


class DatasetError(UserError):
    """A dataset cannot be read or written; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Recording:
    """Action episodes, each (steps, D) float32; the names of the D channels; and the rate in steps per second."""

    episodes: list[np.ndarray]
    names: tuple[str, ...]
    rate_hz: float


def read(folder: Path) -> Recording:
    """Read the actions of a LeRobotDataset on disk. Raises DatasetError.

    They are read from its Parquet files directly: LeRobot takes seconds to import and would decode the cameras too.
    """
    info = info_of(folder)
    feature = info["features"].get(ACTION)
    if feature is None:
        raise DatasetError(f"{folder}: no {ACTION!r} among its features: {', '.join(info['features'])}")
    files = tables_in(folder, "data")
    if not files:
        raise DatasetError(f"{folder / 'data'}: no chunk-*/file-*.parquet, so no step was recorded")
    columns = [part for part in map(_columns, files) if len(part[0])]
    if not columns:
        raise DatasetError(f"{folder}: no step was recorded")
    widths = sorted({part[0].shape[1] for part in columns})
    if len(widths) > 1:
        raise DatasetError(f"{folder / 'data'}: actions of {' and '.join(map(str, widths))} numbers; all of one width")
    steps, episode, frame = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    if not np.isfinite(steps).all():
        at = int(np.flatnonzero(~np.isfinite(steps).all(axis=1))[0])
        raise DatasetError(f"{folder}: episode {episode[at]}, frame {frame[at]}: not finite as float32")
    order = np.lexsort((frame, episode))
    if len(twice := np.flatnonzero((np.diff(episode[order]) == 0) & (np.diff(frame[order]) == 0))):
        at = order[twice[0]]
        raise DatasetError(f"{folder}: episode {episode[at]}, frame {frame[at]}: there more than once")
    if isinstance(stated := info.get("total_frames"), int) and stated != len(steps):
        raise DatasetError(f"{folder / 'data'}: {len(steps)} steps, and {stated} by meta/info.json; is it all there?")
    ends = np.flatnonzero(np.diff(episode[order])) + 1
    return Recording(np.split(steps[order], ends), names_of(feature, steps.shape[1]), float(info["fps"]))


def opened(folder: Path, **options):
    """Return LeRobot's own reader of a dataset, a LeRobotDataset with these options. Raises DatasetError."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    with quiet():
        try:
            return LeRobotDataset(f"local/{folder.name}", root=folder, **options)
        except Exception as error:  # whatever LeRobot raises for files that are missing or damaged
            raise DatasetError(f"{folder}: LeRobot cannot read it ({in_one_line(error)})") from error


def tables_in(dataset: Path, folder: str) -> list[Path]:
    """Return the Parquet files in a folder of a dataset, in order."""
    return sorted((dataset / folder).glob("chunk-*/file-*.parquet"))


def info_of(folder: Path) -> dict:
    """Return the description of a LeRobotDataset, its meta/info.json. Raises DatasetError."""
    path = folder / "meta" / "info.json"
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    try:
        info = json.loads(path.read_text())
        version, rate_hz, _ = info["codebase_version"], float(info["fps"]), int(info["total_episodes"])
        if not 0 < rate_hz < np.inf:
            raise ValueError(f"fps={rate_hz:g}")
        if not isinstance(info["features"].get(ACTION, {}), dict):
            raise ValueError(f"{ACTION}={info['features'][ACTION]}")
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: missing, so {folder} is no LeRobotDataset") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DatasetError(f"{path}: not the description of a LeRobotDataset ({error})") from error
    if not str(version).startswith(VERSION):
        raise DatasetError(f"{path}: codebase_version {version}, not {VERSION}x; convert it with LeRobot's own script")
    return info


def _columns(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the actions (steps, D), and each step's episode and frame index."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, columns=list(COLUMNS))
    except (pyarrow.ArrowInvalid, pyarrow.ArrowKeyError, OSError) as error:
        raise DatasetError(f"{path}: not readable; a recording that was killed leaves such a file ({error})") from error
    if any(table[name].null_count for name in COLUMNS):
        raise DatasetError(f"{path}: steps that lack one of {', '.join(COLUMNS)}")
    for name in COLUMNS[1:]:
        if not pyarrow.types.is_integer(table[name].type):
            raise DatasetError(f"{path}: {name} is a whole number, not {table[name].type}")
    actions, widths = table[ACTION].combine_chunks(), [1]
    wrong = f"{path}: actions are numbers, not {actions.type}"
    if pyarrow.types.is_nested(actions.type):  # LeRobot stores a one-dimensional action as a scalar
        try:
            widths = pyarrow.compute.list_value_length(actions).unique().to_pylist()
        except NotImplementedError as error:  # nested, but not a list type
            raise DatasetError(wrong) from error
        actions = actions.flatten()
    if len(widths) > 1 or 0 in widths:
        raise DatasetError(f"{path}: actions of {' and '.join(map(str, sorted(widths)))} numbers; all of one width")
    try:
        with np.errstate(over="ignore"):  # values too large for float32 become infinite and are refused later
            flat = np.asarray(actions, dtype=np.float32)
    except ValueError as error:
        raise DatasetError(wrong) from error
    return (
        flat.reshape(len(table), *(widths or [1])),
        np.asarray(table["episode_index"]),
        np.asarray(table["frame_index"]),
    )


def names_of(feature: dict, count: int) -> tuple[str, ...]:
    """Return the names of a feature's channels, numbered if it has none."""
    names = feature.get("names")
    if isinstance(names, dict):  # older writers group them
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    if not isinstance(names, list) or len(names) != count:
        names = [f"{ACTION}.{i}" for i in range(count)]
    return tuple(map(str, names))


def write(folder: Path, recording: Recording, task: str) -> None:
    """Write the recording as a LeRobotDataset, which appears complete or not at all.

    Raises DatasetError for an existing folder or a fractional rate, and OSError. Importing LeRobot takes seconds.
    """
    if folder.exists():
        raise DatasetError(f"{folder}: already there; a dataset is written to a new folder")
    if recording.rate_hz != int(recording.rate_hz):
        raise DatasetError(f"{folder}: {recording.rate_hz} steps a second; a LeRobotDataset has a whole number of them")
    with aside_of(folder) as aside:
        with quiet():
            _write(aside, recording, task, folder.name)
        put(aside, folder)


def _write(folder: Path, recording: Recording, task: str, name: str) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    shape = (len(recording.names),)
    dataset = LeRobotDataset.create(
        repo_id=f"local/{name}",
        fps=int(recording.rate_hz),
        root=folder,
        features={ACTION: {"dtype": "float32", "shape": shape, "names": list(recording.names)}},
        use_videos=False,
    )
    try:
        for episode in recording.episodes:
            for action in episode:
                dataset.add_frame({ACTION: action.astype(np.float32), "task": task})
            dataset.save_episode()
    finally:
        dataset.finalize()  # also after an interrupt: else it writes when garbage-collected, its folder already removed


@contextmanager
def quiet():
    """Silence LeRobot inside the block: missing video decoders, per-episode progress bars, ffmpeg's notes."""
    import av
    import datasets

    bars, before = datasets.are_progress_bars_disabled(), logging.root.manager.disable
    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    av.logging.set_libav_level(av.logging.WARNING)
    try:
        yield
    finally:
        av.logging.set_libav_level(av.logging.INFO)  # PyAV's default; libav's level has no getter
        logging.disable(before)
        if not bars:
            datasets.enable_progress_bars()
