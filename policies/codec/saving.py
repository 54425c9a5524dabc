"""A codec as a folder: its settings as JSON, its arrays as safetensors, sizes and sums in a manifest; no pickle."""

import json
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as arrays_of

from policies.codec.bits import IdString
from policies.codec.companding import Trees
from policies.codec.scaling import Scaling
from policies.codec.settings import CodecConfig
from policies.codec.strokes import Strokes
from policies.codec.switches import Switches
from policies.folders import FolderError, check_folder, write_folder

CONFIG, ARRAYS = "config.json", "codec.safetensors"
KIND = "semagram-codec"


def save(codec, folder: Path) -> None:
    """Write the codec as the folder, whole or not at all. Raises OSError."""
    switches = codec.switches
    about = {
        "type": KIND,
        "codec": asdict(codec.config),
        "switches": {"channels": switches.channels, "durations": switches.durations, "slots": switches.slots},
    }
    arrays = {"switches.levels": switches.levels, "string.refines": codec.string.refines}
    for part in ("scaling", "strokes", "trees"):
        record = getattr(codec, part)
        arrays |= {f"{part}.{f.name}": getattr(record, f.name) for f in fields(record)}
    data = arrays_of.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    files = {CONFIG: json.dumps(about, indent=1).encode(), ARRAYS: data}
    write_folder(folder, files, {name: version(name) for name in ("semagram", "numpy")})


def load(folder: Path) -> tuple:
    """The parts of the codec in the folder, in its order. Raises FolderError."""
    check_folder(folder, (CONFIG, ARRAYS))
    try:
        about = json.loads((folder / CONFIG).read_text())
        if about["type"] != KIND:
            raise FolderError(f"{folder / CONFIG}: a {about['type']}, not a {KIND}")
        config = CodecConfig(**about["codec"])
        arrays = arrays_of.load_file(folder / ARRAYS)
        parts = {
            name: kind(**{f.name: arrays[f"{name}.{f.name}"] for f in fields(kind)})
            for name, kind in (("scaling", Scaling), ("strokes", Strokes), ("trees", Trees))
        }
        events = about["switches"]
        switches = Switches(
            tuple(events["channels"]),
            arrays["switches.levels"],
            tuple(events["durations"]),
            events["slots"],
            config.length,
            len(parts["scaling"].middle),
        )
        refines = arrays["string.refines"]
        string = IdString(config.ids, config.bits, refines, len(parts["trees"].values))
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise FolderError(f"{folder}: not a codec ({type(error).__name__}: {error})") from error
    return config, parts["scaling"], parts["strokes"], switches, parts["trees"], string
