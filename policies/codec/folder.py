"""A codec as a folder: settings as JSON, arrays as safetensors, sizes and checksums in a manifest; no pickle."""

import json
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as arrays_of

from policies.codec.bit_packing import BitPacking
from policies.codec.events import Events
from policies.codec.fitting import Parts
from policies.codec.scalar_quantizer import ScalarQuantizer
from policies.codec.scaling import Scaling
from policies.codec.spline_pca import SplinePCA
from policies.settings import CodecConfig
from policies.storage.folders import MANIFEST, FolderError, check_folder, write_folder
from worldmodel.strict import ConfigError, build

CONFIG, ARRAYS = "config.json", "codec.safetensors"
KIND = "semagram-codec"
RECORDS: dict[str, type] = {"scaling": Scaling, "spline": SplinePCA, "quantizer": ScalarQuantizer}
"""The parts of a codec all of whose fields are arrays."""


def save(parts: Parts, folder: Path) -> None:
    """Write a codec to `folder` atomically, replacing a codec that is already there.

    Raises FileExistsError if anything else is there, so that nothing is lost; OSError if writing fails.
    """
    check_place(folder)
    config, scaling, events, spline, packing = parts
    about = {"type": KIND, "codec": asdict(config)}
    records = {"scaling": scaling, "spline": spline, "quantizer": packing.quantizer}
    arrays = {f"{name}.{f.name}": getattr(records[name], f.name) for name in RECORDS for f in fields(RECORDS[name])}
    arrays |= {
        "events.channels": np.array(events.channels, dtype=int),
        "events.levels": events.levels,
        "events.durations": np.array(events.durations),
        "events.slots": np.array([events.slots]),
        "refines": packing.refines,
    }
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


def load(folder: Path) -> Parts:
    """Load the parts of a codec. Raises FolderError if the folder is incomplete or holds no codec."""
    check_folder(folder, (CONFIG, ARRAYS))
    try:
        about = json.loads((folder / CONFIG).read_text())
        if about["type"] != KIND:
            raise FolderError(f"{folder / CONFIG}: a {about['type']}, not a {KIND}")
        config = build(CodecConfig, about["codec"], "codec.", whole=True)
        arrays = arrays_of.load_file(folder / ARRAYS)
        scaling, spline, quantizer = (
            kind(**{f.name: arrays[f"{name}.{f.name}"] for f in fields(kind)}) for name, kind in RECORDS.items()
        )
        events = Events(
            tuple(arrays["events.channels"].tolist()),
            arrays["events.levels"],
            tuple(arrays["events.durations"].tolist()),
            int(arrays["events.slots"].item()),
            config.length,
            len(scaling.middle),
        )
        return config, scaling, events, spline, BitPacking(quantizer, arrays["refines"], config.ids, config.bits)
    except ConfigError as error:
        raise FolderError(f"{folder / CONFIG}: {error}") from error
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise FolderError(f"{folder}: not a codec ({type(error).__name__}: {error})") from error
