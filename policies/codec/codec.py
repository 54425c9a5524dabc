"""The codec: a chunk of actions as a short string of ids, and back; as a folder, JSON and safetensors, no pickle."""

import json
import math
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from os import PathLike
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors import numpy as arrays_of

from policies.codec.quantizer import BitPacking, ScalarQuantizer, order
from policies.codec.spline_pca import SplinePCA
from policies.settings import CodecConfig
from policies.storage.folders import MANIFEST, FolderError, check_folder, check_place, write_folder
from worldmodel.errors import UserError
from worldmodel.strict import build

CONFIG, ARRAYS = "config.json", "codec.safetensors"
FILES = CONFIG, ARRAYS, MANIFEST
KIND = "semagram-codec"
FORMAT = 2  # increment it with every change of what the files contain; older formats cannot be read
TAIL = 0.01  # share of the data beyond -1, and beyond 1
CONSTANT = 1e-6  # a channel that spans less than this does not move
MARGIN = 1.3  # decoded actions stay within so many half ranges of the data
DEPTH = 8  # largest number of bits of a number
STRIDE = 3  # steps between the chunks that a codec is fitted to


@dataclass(frozen=True)
class Scaling:
    """scaled = (value - middle) / half for each of D channels, so that most of the data lies in [-1, 1]."""

    middle: Float[np.ndarray, " D"]
    half: Float[np.ndarray, " D"]

    @classmethod
    def fit(cls, episodes: list[np.ndarray]) -> "Scaling":
        """Map the 1 % and 99 % quantiles of the episodes' steps to -1 and 1."""
        steps = np.concatenate(episodes)
        bottom, top = np.quantile(steps, [TAIL, 1 - TAIL], axis=0)
        # A channel that hardly ever leaves one value has equal quantiles: use its full range instead.
        flat = top - bottom < CONSTANT
        bottom, top = np.where(flat, steps.min(0), bottom), np.where(flat, steps.max(0), top)
        return cls((top + bottom) / 2, np.where(top - bottom < CONSTANT, 1.0, (top - bottom) / 2))

    def scale(self, values: np.ndarray) -> np.ndarray:
        """Scale values (..., D)."""
        return (values - self.middle) / self.half

    def unscale(self, scaled: np.ndarray) -> np.ndarray:
        """Convert scaled values (..., D) back to the channels' own units."""
        return scaled * self.half + self.middle


RECORDS: dict[str, type] = {"scaling": Scaling, "spline": SplinePCA, "quantizer": ScalarQuantizer}
"""The parts of a codec all of whose fields are arrays."""


@dataclass(frozen=True)
class Codec:
    """Conversion between chunks (..., T, D) of actions in their own units and ids (..., ids) in [0, 2^bits).

    A chunk is the sum of its start and a curve, whose numbers are quantized, and the bits of the quantized numbers
    packed into ids in the same order for all chunks.

    The code is ordered: any prefix of a string decodes, to a coarser chunk. It is total: every string decodes to a
    chunk within the bounds, whose curves are no faster than the data.
    """

    config: CodecConfig
    scaling: Scaling
    spline: SplinePCA
    packing: BitPacking

    @classmethod
    def fit(cls, episodes: list[np.ndarray], config: CodecConfig | None = None, stride: int = STRIDE) -> "Codec":
        """Fit a codec to `episodes` (steps, D), of whose chunks `stride` lie between two. Raises ValueError."""
        config = config or CodecConfig()
        episodes = _checked(episodes, config.length)
        scaling = Scaling.fit(episodes)
        scaled = [np.clip(scaling.scale(e), -MARGIN, MARGIN) for e in episodes]
        windows = windows_of(scaled, config.length + 1, stride)
        start, chunks = windows[:, 0], windows[:, 1:] - windows[:, :1]
        spline = SplinePCA.fit(chunks, start)
        quantizer = ScalarQuantizer.fit(spline.numbers(chunks, start), DEPTH)
        refines = order(quantizer.errors, config.ids * config.bits)
        used = np.unique(refines)  # the numbers that get a bit
        unused = np.full(config.ids * config.bits - len(refines), -1)
        refines = np.concatenate([np.searchsorted(used, refines), unused])
        packing = BitPacking(quantizer.select(used), refines, config.ids, config.bits)
        return cls(config, scaling, spline.select(used), packing)

    @property
    def channels(self) -> int:
        """D, the size of an action."""
        return len(self.scaling.middle)

    @property
    def vocabulary(self) -> int:
        """The number of different ids, 2^bits."""
        return 2**self.config.bits

    def encode(self, chunk: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        """Return the ids (..., ids), int64, of chunks (..., T, D) that begin one step after `start` (..., D).

        `start` is where the arm is: the last action of the previous chunk, as decoded. By default it is the chunk's
        first action. Raises ValueError for a wrong shape or values that are not finite.
        """
        values = np.asarray(chunk)
        if values.shape[-2:] != (self.config.length, self.channels):
            raise ValueError(f"chunk {values.shape}: (..., {self.config.length}, {self.channels})")
        first = self._start(values[..., 0, :] if start is None else start, values.shape[:-2])
        if not np.isfinite(values).all():
            raise ValueError("chunk: a number that is not finite")
        scaled = self.scaling.scale(values.reshape(len(first), *values.shape[-2:]))
        numbers = self.spline.numbers(scaled - first[:, None], first)
        ids = self.packing.pack(self.packing.cells(numbers))
        return ids.reshape(*values.shape[:-2], self.config.ids)

    def decode(self, ids: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return the chunks (..., T, D), float32, of the first n <= `config.ids` ids (..., n), from `start` (..., D).

        The start is the one used for encoding. Raises ValueError for ids that are not integers, an id outside the
        vocabulary, too many ids, or a start of a wrong shape or not finite.
        """
        string = np.asarray(ids)
        if string.ndim == 0 or string.dtype.kind not in ("iu" if string.size else "iuf"):
            raise ValueError(f"ids {string.shape}, {string.dtype}: whole numbers, (..., at most {self.config.ids})")
        shape, count = string.shape[:-1], string.shape[-1]
        if count > self.config.ids:
            raise ValueError(f"ids {string.shape}: at most {self.config.ids} a chunk")
        if string.size and not (string.min() >= 0 and string.max() < self.vocabulary):
            raise ValueError(f"ids from {string.min()} to {string.max()}: each from 0 to {self.vocabulary - 1}")
        string = string.reshape(math.prod(shape), count).astype(np.int64)
        curve = self.spline.curve(self.packing.unpack(string), self._start(start, shape), MARGIN)
        chunk = self.scaling.unscale(curve).astype(np.float32)
        return chunk.reshape(*shape, self.config.length, self.channels)

    def _start(self, start, shape: tuple[int, ...]) -> Float[np.ndarray, "N D"]:
        """Return where N chunks begin, scaled."""
        first = np.asarray(start)
        if first.shape != (*shape, self.channels):
            raise ValueError(f"start {first.shape}: {(*shape, self.channels)}, an action for each chunk")
        if not np.isfinite(first).all():
            raise ValueError("start: a number that is not finite")
        return self.scaling.scale(first.reshape(math.prod(shape), self.channels))

    def save(self, path: str | PathLike) -> None:
        """Write the codec as a folder, in the place of nothing or a codec; else raise FileExistsError, or OSError."""
        check_place(Path(path), FILES)
        records = {"scaling": self.scaling, "spline": self.spline, "quantizer": self.packing.quantizer}
        arrays = {f"{name}.{f.name}": getattr(records[name], f.name) for name in RECORDS for f in fields(RECORDS[name])}
        arrays["refines"] = self.packing.refines
        about = {"type": KIND, "format": FORMAT, "codec": asdict(self.config)}
        files = {
            CONFIG: json.dumps(about, indent=1).encode(),
            ARRAYS: arrays_of.save({name: np.ascontiguousarray(array) for name, array in arrays.items()}),
        }
        write_folder(Path(path), files, {name: version(name) for name in ("semagram", "numpy")})

    @classmethod
    def load(cls, path: str | PathLike) -> "Codec":
        """Load the codec that `save` wrote. Raises FolderError for a folder that is incomplete or holds no codec."""
        folder = Path(path)
        check_folder(folder, (CONFIG, ARRAYS))
        try:
            about = json.loads((folder / CONFIG).read_text())
            if about["type"] != KIND:
                raise ValueError(f"{CONFIG} is of a {about['type']}")
            if (found := about.get("format", 1)) != FORMAT:
                raise FolderError(f"{folder}: a codec of format {found}, this Semagram reads {FORMAT}; fit it again")
            config, arrays = build(CodecConfig, about["codec"], "codec."), arrays_of.load_file(folder / ARRAYS)
            scaling, spline, quantizer = (
                kind(**{f.name: arrays[f"{name}.{f.name}"] for f in fields(kind)}) for name, kind in RECORDS.items()
            )
            return cls(config, scaling, spline, BitPacking(quantizer, arrays["refines"], config.ids, config.bits))
        except FolderError:
            raise
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise FolderError(f"{folder}: not a codec ({type(error).__name__}: {error})") from error


def windows_of(episodes: list[np.ndarray], length: int, stride: int) -> Float[np.ndarray, "N L D"]:
    """Return all windows of `length` steps that begin at a multiple of `stride` in an episode."""
    return np.stack([e[i : i + length] for e in episodes for i in range(0, len(e) - length + 1, stride)])


def _checked(episodes: list[np.ndarray], length: int) -> list[np.ndarray]:
    episodes = [np.asarray(e, dtype=float) for e in episodes]
    if not episodes or any(e.ndim != 2 or e.shape[1] != episodes[0].shape[1] for e in episodes):
        raise ValueError(f"episodes: arrays (steps, D) of one D, not {sorted({e.shape[1:] for e in episodes})}")
    for i, episode in enumerate(episodes):
        if not np.isfinite(episode).all():
            raise ValueError(f"episode {i}: a number that is not finite")
    longest = max(map(len, episodes))
    if longest <= length:
        raise UserError(f"length={length}: below the longest episode's {longest} steps")
    return [e for e in episodes if len(e) > length]
