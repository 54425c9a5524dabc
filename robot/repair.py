"""Recover what a killed session of LeRobot's own commands left, as a copy.

LeRobot (0.6) writes an episode's steps to a Parquet file at its end, but no footer before the end of the session; the
table of episodes likewise, ten at a time. Frames lie in `images/` as PNG files until they are encoded to a video of
their own, which is then joined to the others'; that is moved into place, or, across file systems, copied over it. So an
episode is there once its steps are, and its frames in one of these places.
"""

import io
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from math import prod
from pathlib import Path
from shutil import copyfile
from typing import Any, NamedTuple

import numpy as np

from policies.storage.folders import aside_of, put
from robot.datasets import STEPS, DatasetError, info_of, opened, quiet, tables_in
from robot.ticks import same_priority
from robot.unfinished import row_groups

NUMBERED = "chunk-{:03d}/file-{:03d}"


class Clip(NamedTuple):
    """An episode's frames: those of the video at `path` from `start_s` on."""

    path: Path
    start_s: float


class Recovered(NamedTuple):
    """A complete episode: its steps as a table, the clip of each camera, LeRobot's statistics."""

    steps: Any
    clips: dict[str, Clip]
    statistics: dict


def repair(dataset: Path, out: Path) -> dict:
    """Write each complete episode of a killed recording to `out`; return what it is. Raises DatasetError, OSError."""
    if out.exists():
        raise DatasetError(f"{out}: already there; what is repaired is written to a new folder")
    dropped: dict[int, str] = {}
    with aside_of(out) as aside, aside_of(out.with_name(f"{out.name}.clips")) as scratch, quiet():
        info = info_of(dataset)
        if not (episodes := list(_complete(dataset, info, scratch, dropped))):
            raise DatasetError(f"{dataset}: no episode is complete; {dropped or 'no step reached the disk'}")
        _write(aside, info, episodes, _tasks(dataset))
        read = opened(aside)
        assert read[len(read) - 1]["episode_index"] == read.num_episodes - 1
        put(aside, out)
    return {"episodes": read.num_episodes, "frames": len(read), "dropped": dropped, "dataset": str(out)}


def _complete(dataset: Path, info: dict, scratch: Path, dropped: dict[int, str]) -> Iterator[Recovered]:
    """Yield the complete episodes; `dropped` gets why another is not."""
    features, found = info["features"], list(_steps(dataset, info["features"]))
    lengths = {number: len(steps) for number, steps in found}
    cameras = [key for key, feature in features.items() if feature["dtype"] == "video"]
    clips = {key: _clips(dataset, key, lengths, info["fps"], scratch) for key in cameras}
    for number, steps in found:
        own = {key: clips[key][number] for key in cameras if number in clips[key]}
        if not np.array_equal(steps["frame_index"], np.arange(len(steps))):
            dropped[number] = f"some of its steps are not among the {len(steps)} that are there"
        elif without := [key for key in cameras if key not in own]:
            dropped[number] = f"not all frames of {', '.join(without)} are there"
        else:
            try:
                yield Recovered(steps, own, _statistics(features, steps, own, info["fps"]))
            except DatasetError as error:
                dropped[number] = str(error)


def _steps(dataset: Path, features: dict) -> Iterator[tuple[int, Any]]:
    """Yield the number and the steps of each episode, from closed Parquet files and unclosed ones."""
    import pyarrow
    import pyarrow.parquet
    from lerobot.datasets.feature_utils import get_hf_features_from_features

    shaped = {key: feature | {"shape": tuple(feature["shape"])} for key, feature in features.items()}
    schema = get_hf_features_from_features(shaped).arrow_schema
    widths = {key: prod(each["shape"]) for key, each in shaped.items() if each["dtype"] not in ("image", "string")}
    for path in tables_in(dataset, STEPS):
        try:
            tables = [pyarrow.parquet.read_table(path)]
        except (pyarrow.ArrowException, OSError):
            tables = list(row_groups(path.read_bytes(), schema, widths))
        for table in tables:
            numbers = np.asarray(table["episode_index"])
            for number in np.unique(numbers):
                first, count = int(np.argmax(numbers == number)), int((numbers == number).sum())
                yield int(number), table.slice(first, count)


def _clips(dataset: Path, key: str, lengths: dict[int, int], fps: int, scratch: Path) -> dict[int, Clip]:
    """Return the clip of each episode (number: steps) of which all frames are there, wherever they are."""
    found = {}
    files = [_whole(path) for path in sorted((dataset / "videos" / key).glob("chunk-*/file-*.mp4"))]
    times = [_times(path) for path in files]
    at = used = 0
    for number, length in lengths.items():
        if at < len(files) and used == len(times[at]):
            at, used = at + 1, 0
        if at < len(files) and used + length <= len(times[at]):
            found[number] = Clip(files[at], times[at][used])
            used += length
        elif clip := _unjoined(dataset, key, number, length, fps, scratch):
            found[number] = clip
    return found


def _whole(path: Path) -> Path:
    """Return the file of which `path` is an unfinished copy, if LeRobot was killed while it copied; else `path`."""
    size = path.stat().st_size
    for other in Path(tempfile.gettempdir()).glob("tmp*.mp4"):
        with suppress(OSError):  # another user's
            if other.stat().st_size > size and other.read_bytes()[:size] == path.read_bytes():
                return other
    return path


def _times(path: Path) -> list[float]:
    """Return when each frame of a video is shown, in seconds; none if it cannot be read."""
    import av

    try:
        with av.open(str(path)) as video:
            stream = video.streams.video[0]
            packets = [packet for packet in video.demux(stream) if packet.size and not packet.is_corrupt]
            times = [packet.pts * packet.time_base for packet in packets if packet.pts is not None and packet.time_base]
    except (av.FFmpegError, IndexError, OSError):
        return []
    return sorted(map(float, times))


def _unjoined(dataset: Path, key: str, number: int, length: int, fps: int, scratch: Path) -> Clip | None:
    """Return the clip of an episode whose frames are in a video of their own, or still images; None if they are not."""
    from lerobot.datasets.video_utils import encode_video_frames

    streamed = f"{key.replace('/', '_')}_streaming.mp4"
    last = [path for name in (f"{key}_{number:03d}.mp4", streamed) for path in sorted(dataset.glob(f"*/{name}"))]
    for path in last:
        if len(times := _times(path)) == length:
            return Clip(path, times[0])
    images = dataset / "images" / key / f"episode-{number:06d}"
    frames = [images / f"frame-{frame:06d}.png" for frame in range(length)]
    if not all(frame.exists() for frame in frames) or (images / f"frame-{length:06d}.png").exists():
        return None
    path = scratch / f"{key}-{number}.mp4"
    with same_priority():
        encode_video_frames(images, path, fps)
    return Clip(path, _times(path)[0])


def _tasks(dataset: Path) -> list[str]:
    """Return the tasks in words, by their number. Raises DatasetError."""
    from lerobot.datasets.io_utils import load_tasks

    try:
        return [str(task) for task in load_tasks(dataset).sort_values("task_index").index]
    except (OSError, ValueError) as error:  # pyarrow's are, too
        raise DatasetError(f"{dataset}/meta/tasks.parquet: not readable, so what was done is unknown") from error


def _write(folder: Path, info: dict, episodes: list[Recovered], tasks: list[str]) -> None:
    """Write a dataset of these episodes, numbered anew."""
    import pyarrow
    import pyarrow.parquet
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
    from lerobot.utils.constants import DEFAULT_FEATURES

    features = {key: feature for key, feature in info["features"].items() if key not in DEFAULT_FEATURES}
    about = {"fps": int(info["fps"]), "robot_type": info.get("robot_type"), "use_videos": bool(info.get("video_path"))}
    meta = LeRobotDatasetMetadata.create(f"local/{folder.name}", features=features, root=folder, **about)
    meta.save_episode_tasks(tasks)
    videos: dict[str, list[Path]] = defaultdict(list)
    path = folder / STEPS / f"{NUMBERED.format(0, 0)}.parquet"
    path.parent.mkdir(parents=True)
    schema, index = episodes[0].steps.schema, 0
    with pyarrow.parquet.ParquetWriter(path, schema, compression="snappy", use_dictionary=True) as writer:
        for number, episode in enumerate(episodes):
            count = len(episode.steps)
            steps = episode.steps.cast(schema)
            for name, values in (("episode_index", np.full(count, number)), ("index", index + np.arange(count))):
                at = steps.schema.get_field_index(name)
                steps = steps.set_column(at, steps.schema.field(at), pyarrow.chunked_array([values]))
            writer.write_table(steps)
            about = {"episode_index": number, "data/chunk_index": 0, "data/file_index": 0}
            about |= {"dataset_from_index": index, "dataset_to_index": index + count}
            for key, clip in episode.clips.items():
                if clip.path not in videos[key]:
                    videos[key].append(clip.path)
                about |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": videos[key].index(clip.path)}
                about |= {f"videos/{key}/from_timestamp": clip.start_s}
                about |= {f"videos/{key}/to_timestamp": clip.start_s + count / info["fps"]}
            done = sorted({tasks[i] for i in np.unique(steps["task_index"])})
            meta.save_episode(number, count, done, episode.statistics, about)
            index += count
    for key, paths in videos.items():
        for number, source in enumerate(paths):
            path = folder / "videos" / key / f"{NUMBERED.format(0, number)}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            copyfile(source, path)
        if not meta.features[key].get("info"):
            meta.update_video_info(key)
    meta.finalize()


def _statistics(features: dict, steps, clips: dict[str, Clip], fps: int) -> dict:
    """Return LeRobot's statistics of an episode. Raises DatasetError for a video of which a frame does not decode."""
    from lerobot.datasets import compute_stats as lerobot

    numbers = {k: f for k, f in features.items() if f["dtype"] not in ("image", "video", "string", "language")}
    values = {key: np.array(steps[key].to_pylist(), feature["dtype"]) for key, feature in numbers.items()}
    found = lerobot.compute_episode_stats(values, numbers)
    for key in [key for key, feature in features.items() if feature["dtype"] in ("image", "video")]:
        seen = frames(steps, key, clips.get(key), lerobot.sample_indices(len(steps)), fps)
        small = np.stack([lerobot.auto_downsample_height_width(frame) for frame in seen])
        each = lerobot.get_feature_stats(small, (0, 2, 3), keepdims=True)
        found[key] = {name: v if name == "count" else np.squeeze(v / 255, axis=0) for name, v in each.items()}
    return found


def frames(steps, key: str, clip: Clip | None, at: list[int], fps: int) -> Iterator[np.ndarray]:
    """Yield frames (3, H, W) uint8 of an episode by number, of its clip or its images. Raises DatasetError."""
    import av
    from lerobot.datasets.video_utils import FrameTimestampError, decode_video_frames
    from PIL import Image, UnidentifiedImageError

    for number in at:
        try:
            if clip is None:
                with Image.open(io.BytesIO(steps[key][number].as_py()["bytes"])) as image:
                    yield np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            else:
                time_s = clip.start_s + number / fps
                yield decode_video_frames(clip.path, [time_s], 0.5 / fps, "pyav", return_uint8=True)[0].numpy()
        except (av.FFmpegError, FrameTimestampError, UnidentifiedImageError, IndexError) as error:
            where = clip.path if clip else key
            raise DatasetError(f"{where}: frame {number} of an episode does not decode") from error
