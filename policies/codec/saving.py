"""A codec as a folder: settings as JSON, arrays as safetensors, sizes and checksums in a manifest; no pickle."""

import json
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as arrays_of

from policies.codec.bits import IdString
from policies.codec.companding import Trees
from policies.codec.corners import Corners
from policies.codec.curves import Curves
from policies.codec.scaling import Scaling
from policies.codec.settings import CodecConfig
from policies.codec.strokes import Strokes
from policies.codec.switches import Switches
from policies.storage.folders import MANIFEST, FolderError, check_folder, write_folder
from worldmodel.strict import ConfigError, build

CONFIG, ARRAYS = "config.json", "codec.safetensors"
KIND = "semagram-codec"
CORNERS = ("channel", "manner", "level")


@dataclass(frozen=True)
class Events:
    """The part of config.json that describes the channels that switch (`Switches`)."""

    channels: tuple[int, ...]
    durations: tuple[float, ...]
    slots: int


def save(codec, folder: Path) -> None:
    """Write the codec to `folder` atomically, replacing a codec that is already there.

    Raises FileExistsError if anything else is there, so that nothing is lost; OSError if writing fails.
    """
    check_place(folder)
    about, parts = {"type": KIND, "codec": asdict(codec.config)}, {"scaling": codec.scaling}
    arrays: dict[str, np.ndarray] = {}
    writing = codec.writing
    if isinstance(writing, Corners):
        about["writing"] = "corners"
        arrays |= {f"corners.{name}": getattr(writing, name) for name in CORNERS}
    else:
        switches = writing.switches
        about["writing"] = "curves"
        about["switches"] = asdict(Events(switches.channels, switches.durations, switches.slots))
        arrays |= {"switches.levels": switches.levels, "string.refines": writing.string.refines}
        parts |= {"strokes": writing.strokes, "trees": writing.trees}
    for part, record in parts.items():
        arrays |= {f"{part}.{f.name}": getattr(record, f.name) for f in fields(record)}
    data = arrays_of.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    files = {CONFIG: json.dumps(about, indent=1).encode(), ARRAYS: data}
    write_folder(folder, files, {name: version(name) for name in ("semagram", "numpy")})


def check_place(folder: Path) -> None:
    """Raise FileExistsError if `folder` exists and is neither empty nor a codec's."""
    if folder.exists() and not _replaceable(folder):
        raise FileExistsError(f"{folder}: already there, and no codec; give a new folder")


def _replaceable(folder: Path) -> bool:
    """Return whether this is a folder that is empty, or that holds a codec and nothing else."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    if not names:
        return True
    try:
        return names == {CONFIG, ARRAYS, MANIFEST} and json.loads((folder / CONFIG).read_text())["type"] == KIND
    except (ValueError, KeyError, TypeError, OSError):
        return False


def load(folder: Path) -> tuple[CodecConfig, Scaling, Curves | Corners]:
    """Load the fields of a `Codec`, in order. Raises FolderError if the folder is incomplete or holds no codec."""
    check_folder(folder, (CONFIG, ARRAYS))
    try:
        about = json.loads((folder / CONFIG).read_text())
        if about["type"] != KIND:
            raise FolderError(f"{folder / CONFIG}: a {about['type']}, not a {KIND}")
        config = build(CodecConfig, about["codec"], "codec.", whole=True)
        arrays = arrays_of.load_file(folder / ARRAYS)
        scaling = _record(Scaling, "scaling", arrays)
        if about["writing"] == "corners":
            channel, manner, level = (arrays[f"corners.{name}"] for name in CORNERS)
            length, width = config.length, len(scaling.middle)
            worth = config.worth**2 * length * width
            writing: Curves | Corners = Corners(channel, manner, level, length, width, config.ids, worth)
        else:
            events = build(Events, about["switches"], "switches.", whole=True)
            writing = _curves(events, arrays, config, len(scaling.middle))
    except ConfigError as error:
        raise FolderError(f"{folder / CONFIG}: {error}") from error
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise FolderError(f"{folder}: not a codec ({type(error).__name__}: {error})") from error
    return config, scaling, writing


def _record(kind: type, name: str, arrays: dict[str, np.ndarray]):
    return kind(**{f.name: arrays[f"{name}.{f.name}"] for f in fields(kind)})


def _curves(events: Events, arrays: dict[str, np.ndarray], config: CodecConfig, width: int) -> Curves:
    trees = _record(Trees, "trees", arrays)
    levels = arrays["switches.levels"]
    switches = Switches(events.channels, levels, events.durations, events.slots, config.length, width)
    string = IdString(config.ids, config.bits, arrays["string.refines"], len(trees.values))
    return Curves(_record(Strokes, "strokes", arrays), switches, trees, string)
