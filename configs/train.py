"""Train, from a command or from a script or notebook."""

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from configs.arguments import explain, given, going_on, moved, named
from configs.command import composed, run_name
from configs.machine import check_device, check_threads
from configs.runs.tracking import Callback, check_installed
from configs.schema import TrainConfig, check_camera_keys
from policies.settings import GuidanceKeys
from policies.storage.folders import stamped
from worldmodel import registry
from worldmodel.errors import OWN, UserError
from worldmodel.strict import ConfigError, build

AUTO = "auto"
"""Value of `resume`: the run in the folder is begun, gone on with, or found finished (`configs.runs.run_folder`)."""


def train(arguments: Sequence[str], folder: str | Path | None = None, callback: Callback | None = None) -> dict:
    """Train as `semagram-train` does with these `arguments`, each a `key=value`, and return the summary.

    `folder`: the new run's; by default runs/<task>/<time>-seed<seed>, or that of `resume=<run>`. `callback` is called
    with each row of metrics.csv; if it returns True, the run ends there, and can be gone on with. The command's errors
    are raised instead of printed. Ctrl-C saves a checkpoint and raises SystemExit.
    """
    if callback is not None and not callable(callback):
        raise UserError(f"callback={callback!r}: a function of a row, a dict")
    keys = composed_or_refused("train", arguments)
    own = in_own_folder(keys["resume"])
    if own and folder is not None:
        raise ConfigError(f"folder={folder}: not with resume={keys['resume']}, which goes on in its own folder")
    if not own and folder is None:
        if keys["resume"] == AUTO:
            raise ConfigError("folder: with resume=auto, where the run is or will be, e.g. runs/mine")
        task = keys["task"]
        name = run_name(task["name"], task["id"], task["names"], keys["data"])
        folder = Path("runs", name, stamped(f"seed{keys['seed']}"))
    registry.load(keys["plugins"])
    return begin(keys, Path(folder or keys["resume"]), named(arguments), callback)


def composed_or_refused(name: str, arguments: Sequence[str]) -> dict:
    """Return the config of the command `name` with these arguments. Raises ConfigError for a wrong key or value."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        return composed(name, list(arguments))
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(explain(error, name)) from error


def command(keys: dict, folder: Path) -> dict:
    """Do the work of semagram-train; arguments and errors as of `begin`."""
    if in_own_folder(keys["resume"]) and moved():
        raise ConfigError(f"hydra.run.dir=: not with resume={keys['resume']}, which goes on in its own folder")
    return begin(keys, folder, given())


def in_own_folder(resume: object) -> bool:
    """Return whether `resume` names a run, which goes on in its own folder."""
    return resume not in ("", AUTO)


def begin(keys: dict, folder: Path, given: Collection[str], callback: Callback | None = None) -> dict:
    """Train with the settings `keys` and write everything to `folder`, or to the run folder that `resume` names.

    `given`: the dotted keys that the user set. Mistakes are reported before the slow import of PyTorch. Returns the
    summary. What a part of the user's own raises gets a note (OWN) that names it.
    """
    began = time.perf_counter()
    if isinstance(keys["threads"], int):  # else `build` says what is wrong
        check_threads(keys["threads"])
    check_device(keys["device"])
    if keys["data"] and not in_own_folder(keys["resume"]):
        from configs.runs.recordings import adapted

        keys = adapted(keys, given)
    if keys["resume"] == AUTO:
        from configs.runs.run_folder import found

        summary, keys, given = found(keys, folder)
        if summary is not None:
            return summary
    if keys["resume"] == "" and (guidance := build(GuidanceKeys, keys["guidance"], "guidance.")).given:
        from policies.guidance.chosen import wishes_of

        if not keys["task"]["guidance"]:  # else found with the run
            keys["task"]["guidance"] = [asdict(wish) for wish in wishes_of(guidance)]
    if not keys["resume"] or not isinstance(keys["resume"], str):  # a resumed run takes most from its checkpoint
        config = build(TrainConfig, keys)
        check_camera_keys(config, given)
        check_installed(config.track)
    from configs.runs.run_folder import RunFolder
    from configs.runs.training import Training

    envs = RunFolder(Path(keys["resume"])).config().get("envs") if keys["resume"] else keys["envs"]
    kind: type[Training] = Training
    if envs == 0:
        from configs.runs.offline import OfflineTraining

        kind = OfflineTraining
    try:
        run = kind.begin(keys, folder, given, callback)
        run.clock["starting"] = time.perf_counter() - began
        return run.run()
    except Exception as error:
        if part := registry.blamed(error, callback=callback):
            path = Path(keys["resume"] or folder)
            go_on = f"go on from the last checkpoint with: {going_on(path, keys['plugins'])}"
            saved = RunFolder(path).used
            error.add_note(f"{OWN}{part} raised this; {go_on if saved else 'nothing was saved yet: begin again'}")
        raise
