"""semagram-tokens: fit a codec to a dataset, or draw a plan as a glyph."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from configs.schema import TokensConfig
from policies.codec import Codec, CodecConfig
from policies.codec.codec import FILES, windows_of
from policies.glyphs.ink import draw as draw_ink
from policies.settings import CodecChoices
from policies.storage.folders import check_place
from policies.tokens.vocabulary import read_sentence, text
from robot import datasets
from worldmodel.errors import UserError


def tokens(config: TokensConfig, folder: Path) -> dict:
    """Do what the verb of semagram-tokens says."""
    return {"fit": fit, "draw": draw}[config.verb](config, folder)


def fit(config: TokensConfig, folder: Path) -> dict:
    """Fit a codec to all of a dataset and save it. Raises UserError if no episode is longer than a chunk."""
    out = Path(config.out) if config.out else folder / "codec"
    check_place(out, FILES)  # before fitting, which takes minutes for a long dataset
    recording = datasets.read(Path(config.dataset))
    choice = settings(config, recording.rate_hz)
    if (longest := max(map(len, recording.episodes))) <= choice.length:
        least = f"a chunk has {choice.length} steps, and one comes before; the longest episode has {longest}"
        raise UserError(f"seconds={config.seconds:g}: {least}")
    codec = Codec.fit(recording.episodes, choice)
    codec.save(out)
    return {
        "codec": str(out),
        "episodes": len(recording.episodes),
        "length": choice.length,
        "channels": list(recording.names),
        "string_bits": choice.ids * choice.bits,
        "rmse": round(error(codec, recording.episodes), 5),
    }


def error(codec: Codec, episodes: list[np.ndarray]) -> float:
    """Return the RMS error of the episodes' chunks, decoded from all of their ids, in half ranges of the channels."""
    windows = windows_of(episodes, codec.config.length + 1, max(1, codec.config.length // 4))
    start, chunks = windows[:, 0], windows[:, 1:]
    missed = codec.decode(codec.encode(chunks, start), start) - chunks
    return float(np.sqrt(np.mean(np.square(missed / codec.scaling.half))))


def settings(config: TokensConfig, rate_hz: float) -> CodecConfig:
    """Return the codec's settings for a dataset of this rate. Raises UserError if a chunk is below five steps."""
    length = round(config.seconds * rate_hz)
    if length < 5:
        raise UserError(f"seconds={config.seconds:g}: a chunk of {length} steps at {rate_hz:g} Hz; at least 5")
    return CodecConfig(**{f.name: getattr(config, f.name) for f in fields(CodecChoices)}, length=length)


def draw(config: TokensConfig, folder: Path) -> dict:
    """Write a plan's glyph.svg and glyph.png; return the path of the former, and the plan as one line."""
    sentence = read_sentence(Path(config.plan))
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("glyph.svg", "glyph.png"):
        draw_ink(sentence, folder / name)
    return {"glyph": str(folder / "glyph.svg"), "sentence": text(sentence)}
