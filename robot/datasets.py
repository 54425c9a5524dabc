"""LeRobotDataset folders (version 3): read the columns of one, episode by episode."""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policies.storage.folders import replace_file
from worldmodel.errors import UserError, in_one_line

ACTION = "action"
EPISODES, STEPS = "meta/episodes", "data"
ORDER = "episode_index", "frame_index"
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
    """Read the actions of a LeRobotDataset on disk. Raises DatasetError."""
    info = info_of(folder)
    found, episode = steps_of(folder, (ACTION,))
    ends = np.flatnonzero(np.diff(episode)) + 1
    names = names_of(info["features"][ACTION], found[ACTION].shape[1])
    return Recording(np.split(found[ACTION], ends), names, float(info["fps"]))


def steps_of(folder: Path, keys: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return those of the columns `keys` that were recorded, float32 (T, ...), and each step's episode (T,), in order.

    They are read from the Parquet files directly: LeRobot takes seconds to import and would decode the cameras too. An
    action is a vector (T, D) even where it is one number. Raises DatasetError.
    """
    info = info_of(folder)
    if ACTION not in info["features"]:
        raise DatasetError(f"{folder}: no {ACTION!r} among its features: {', '.join(info['features'])}")
    there = [key for key in keys if key in info["features"]]
    table = columns(folder, STEPS, (*there, *ORDER))
    if lacking := [name for name in (*there, *ORDER) if name not in table]:
        raise DatasetError(f"{folder / STEPS}: no column {lacking[0]}")
    episode, frame = (np.array(table[name]) for name in ORDER)
    if len(episode) != (stated := info.get("total_frames", len(episode))):
        raise DatasetError(f"{folder / STEPS}: {len(episode)} steps, {stated} by meta/info.json; is it all there?")
    order = np.lexsort((frame, episode))
    episode, frame = episode[order], frame[order]

    def refuse(at: int, why: str) -> DatasetError:
        return DatasetError(f"{folder}: episode {episode[at]}, frame {frame[at]}: {why}")

    if (twice := (np.diff(episode) == 0) & (np.diff(frame) == 0)).any():
        raise refuse(int(np.argmax(twice)), "there more than once")
    found = {}
    for key in there:
        try:
            with np.errstate(over="ignore"):  # values too large for float32 become infinite and are refused
                values = np.array(table[key], np.float32)[order]
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{folder}: {key}: not numbers of one width ({in_one_line(error)})") from error
        flat = values.reshape(len(values), -1)
        if not (finite := np.isfinite(flat).all(1)).all():
            raise refuse(int(np.argmin(finite)), f"{key} is not finite")
        found[key] = flat if key == ACTION else values
    return found, episode


def columns(dataset: Path, folder: str, wanted: tuple[str, ...] = ()) -> dict[str, list]:
    """Return columns of a folder's Parquet files: those `wanted`, or all but statistics. Raises DatasetError."""
    import pyarrow
    import pyarrow.parquet

    mends, tables = f"semagram-data repair={dataset} out=<copy>", []
    for file in tables_in(dataset, folder):
        try:
            there = pyarrow.parquet.read_schema(file).names
            names = [name for name in there if name in wanted or (not wanted and not name.startswith("stats/"))]
            tables.append(pyarrow.parquet.read_table(file, columns=names))
        except (pyarrow.ArrowException, OSError) as error:
            raise DatasetError(f"{file}: not readable; {mends}") from error
    if not sum(map(len, tables)):
        raise DatasetError(f"{dataset / folder}: nothing there; {mends}")
    return pyarrow.concat_tables(tables, promote_options="permissive").to_pydict()


def set_columns(file: Path, columns: Mapping[str, Any]) -> None:
    """Set columns of a Parquet file, arrays or lists, new ones behind the others; it is replaced in one step."""
    import pyarrow
    import pyarrow.parquet

    table, sink = pyarrow.parquet.read_table(file), io.BytesIO()
    for name, values in columns.items():
        at, column = table.schema.get_field_index(name), pyarrow.array(values)
        table = table.append_column(name, column) if at < 0 else table.set_column(at, name, column)
    pyarrow.parquet.write_table(table, sink)
    replace_file(file, sink.getvalue())


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


def names_of(feature: dict, count: int) -> tuple[str, ...]:
    """Return the names of a feature's channels, numbered if it has none."""
    names = feature.get("names")
    if isinstance(names, dict):  # older writers group them
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    if not isinstance(names, list) or len(names) != count:
        names = [f"{ACTION}.{i}" for i in range(count)]
    return tuple(map(str, names))


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
