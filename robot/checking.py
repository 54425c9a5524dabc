"""What is in a LeRobotDataset, and what is wrong with each episode."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robot.datasets import ACTION, EPISODES, STEPS, DatasetError, columns, info_of, names_of, quiet
from robot.recording import INTERVENTION, MEASURED, SUCCESS, done, marks_of
from robot.repair import Clip, frames
from robot.safety.limits import RANGES
from sim.renderer import shows
from worldmodel.senses import STATE_KEY

LOOKS = 5  # frames of each episode and camera that are looked at
ASKED, MOVED = 5.0, 0.5
"""A joint is stuck if its actions differ by more than the first in an episode, its readings by less than the second."""
LATE, BEYOND = 1.5, 0.5  # a frame is late after so many periods; an action is beyond a joint's range by so much


def check(dataset: Path) -> dict:
    """Return what a dataset holds, and by episode what is wrong with it. Raises DatasetError."""
    info = info_of(dataset)
    about = columns(dataset, EPISODES)
    wanted = ("episode_index", ACTION, STATE_KEY, MEASURED, SUCCESS, INTERVENTION)
    rows = {name: np.array(values) for name, values in columns(dataset, STEPS, wanted).items()}
    fps, width = float(info["fps"]), rows[ACTION].shape[-1] if ACTION in rows and rows[ACTION].ndim > 1 else 0
    names = names_of(info["features"][ACTION], width) if width else ()
    wrong: dict[int, list[str]] = defaultdict(list)
    counts: Counter[str] = Counter()
    marks, succeeded, seconds = marks_of(dataset), list[bool | None](), 0.0
    for place, number in enumerate(about["episode_index"]):
        steps = {name: values[rows["episode_index"] == number] for name, values in rows.items()}
        success = done(marks[number][0], steps.get(SUCCESS), len(steps["episode_index"]))
        succeeded.append(None if success is None else bool(success.any()))
        seconds += float(np.ptp(steps[MEASURED])) if MEASURED in steps and steps[MEASURED].size else 0.0
        found = _of_steps(steps, fps, names) | _of_cameras(dataset, info, about, place)
        if len(steps["episode_index"]) != about["length"][place]:
            found[f"steps missing of {about['length'][place]}"] = about["length"][place] - len(steps["episode_index"])
        wrong[number] += [f"{what}: {count}" if count > 1 else what for what, count in found.items() if count]
        counts.update(found)
    lengths, known = np.array(about["length"]), [each for each in succeeded if each is not None]
    return {
        "episodes": len(lengths),
        "frames": int(lengths.sum()),
        "fps": fps,
        "control_hz": round(float((lengths - 1).sum()) / seconds, 3) if seconds else None,
        "shortest_s": round(float(lengths.min()) / fps, 3),
        "longest_s": round(float(lengths.max()) / fps, 3),
        "success_rate": round(float(np.mean(known)), 4) if known else None,
        "unmarked": len(lengths) - len(known),
        "intervention_rate": round(float(rows[INTERVENTION].mean()), 4) if INTERVENTION in rows else None,
        "found": {what: int(count) for what, count in counts.items() if count},
        "wrong": {str(number): each for number, each in wrong.items() if each},
        "tasks": dict(Counter(task for tasks in about["tasks"] for task in tasks)),
        "dataset": str(dataset),
    }


def _of_steps(steps: dict[str, np.ndarray], fps: float, names: Sequence[str]) -> dict[str, int]:
    """Return how often each thing is wrong with the steps of an episode."""
    found: dict[str, int] = {}
    for name in {ACTION, STATE_KEY} & steps.keys():
        found[f"{name} not finite"] = int((~np.isfinite(steps[name])).any(axis=-1).sum())
    if MEASURED in steps:
        found["late frames"] = int((np.diff(steps[MEASURED].reshape(-1)) > LATE / fps).sum())
    action, state = steps.get(ACTION, np.zeros((0, 0))), steps.get(STATE_KEY, np.zeros((0, 0)))
    for at, name in enumerate(names if len(action) else ()):
        joint = name.removesuffix(".pos")
        if joint in RANGES:
            low, high = RANGES[joint][0] - BEYOND, RANGES[joint][1] + BEYOND
            found[f"{joint} beyond its range"] = int(((action[:, at] < low) | (action[:, at] > high)).sum())
        if state.shape == action.shape:
            found[f"{joint} stuck"] = int(np.ptp(action[:, at]) > ASKED and np.ptp(state[:, at]) < MOVED)
    return found


def _of_cameras(dataset: Path, info: dict, about: dict[str, list], place: int) -> dict[str, int]:
    """Return how many of LOOKS frames of an episode's cameras are of one colour, or do not decode."""
    found, count = {}, about["length"][place]
    for key in [key for key, feature in info["features"].items() if feature["dtype"] == "video"]:
        chunk, file, start = (
            about[f"videos/{key}/{n}"][place] for n in ("chunk_index", "file_index", "from_timestamp")
        )
        path = dataset / info["video_path"].format(video_key=key, chunk_index=chunk, file_index=file)
        at = np.linspace(0, count - 1, LOOKS).round().astype(int).tolist()
        name = key.rpartition(".")[2]
        try:
            with quiet():
                seen = list(frames({}, key, Clip(path, start), at, info["fps"]))
            found[f"{name} shows one colour"] = sum(not shows(frame) for frame in seen)
        except DatasetError:
            found[f"{name} does not decode"] = 1
    return found
