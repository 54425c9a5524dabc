"""Measures the codec against 256 bins, FAST and BEAST: bits, errors, jumps between chunks, validity, time.

    python tests/bench/codec.py <LeRobotDataset> [out=runs/codec] [seed=0] [strings=100000] [seconds=1] [ids=8] ...

Every code is fitted to 70 % of the episodes and measured on the others, in chunks that begin every quarter of a length.
Further keys are those of semagram-tokens. Errors are in half ranges (1 to 99 % of the data). `jump`: mean absolute
deviation from the true step across the border of two chunks coded in a row; `chained`: RMS error of the second of them;
`valid`: share of random id strings that decode to within 1.3; `prefix_rmse`: RMS errors after 1/8, 1/4 and 1/2 of the
ids; times: microseconds of this thread a chunk. Writes table.csv and rate-distortion.png, and prints the rows. Not a
test.
"""

import csv
import json
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from codec_rivals import Beast, Bins, Fast
from matplotlib.figure import Figure

from configs.codec import settings
from configs.schema import TokensConfig
from policies.codec import Codec
from policies.codec.codec import STRIDE, Scaling, windows_of
from robot import datasets
from worldmodel.strict import build

SHARES, WITHIN, TIMED = (1 / 8, 1 / 4, 1 / 2), 1.3 + 1e-6, 200


def measure(code, episodes: list[np.ndarray], length: int, strings: int, seed: int = 0) -> dict:
    """Return one row of the table."""
    windows = windows_of(episodes, length + 1, max(1, length // 4))
    starts, chunks = windows[:, 0], windows[:, 1:]
    ids = [code.encode(chunk, start) for chunk, start in zip(chunks, starts, strict=True)]
    error = decoded(code, ids, starts) - chunks
    count = float(np.mean(list(map(len, ids))))
    shares = [decoded(code, [i[: max(1, round(share * len(i)))] for i in ids], starts) - chunks for share in SHARES]
    jump, chained = joined(code, episodes, length)
    return {
        "codec": getattr(code, "name", "semagram"),
        "bits": round(count * float(np.log2(code.vocabulary)), 1),
        "ids": round(count, 2),
        "rmse": rms(error),
        "max_error": float(np.abs(error).max()),
        "jump": jump,
        "chained": chained,
        "valid": valid(code, ids, starts, strings, np.random.default_rng(seed)),
        "prefix_rmse": list(map(rms, shares)),
        "encode_us": timed(lambda i: code.encode(chunks[i], starts[i]), len(chunks)),
        "decode_us": timed(lambda i: code.decode(ids[i], starts[i]), len(chunks)),
    }


def decoded(code, ids: list, starts: np.ndarray) -> np.ndarray:
    """Return the chunks of id strings."""
    return np.array([code.decode(i, start) for i, start in zip(ids, starts, strict=True)])


def rms(errors) -> float:
    """Return the root mean square of all entries."""
    return float(np.sqrt(np.mean(np.square(errors))))


def joined(code, episodes: list[np.ndarray], length: int) -> tuple[float, float]:
    """Return the mean jump at the border of two chunks coded in a row, and the RMS error of the second one."""
    jumps, errors = [], []
    for two in windows_of(episodes, 2 * length + 1, max(1, length // 4)):
        first = code.decode(code.encode(two[1 : length + 1], two[0]), two[0])
        second = code.decode(code.encode(two[length + 1 :], first[-1]), first[-1])
        jumps.append(np.abs((second[0] - first[-1]) - (two[length + 1] - two[length])).mean())
        errors.append(second - two[length + 1 :])
    return float(np.mean(jumps)), rms(errors)


def valid(code, ids: list, starts: np.ndarray, strings: int, rng: np.random.Generator) -> float:
    """Return the share of random strings, as long as real ones, that decode within bounds."""
    whole, good = {"whole": True} if isinstance(code, Fast) else {}, 0
    for _ in range(strings):
        i = rng.integers(len(ids))
        with suppress(ValueError):  # the string does not decode
            chunk = code.decode(rng.integers(code.vocabulary, size=len(ids[i])), starts[i], **whole)
            good += bool(np.abs(chunk).max() <= WITHIN)
    return good / strings


def timed(call, count: int) -> float:
    """Return the CPU microseconds of this thread a call takes."""
    began = time.thread_time()
    for i in range(min(TIMED, count)):
        call(i)
    return (time.thread_time() - began) / min(TIMED, count) * 1e6


def rivals(fitted: list[np.ndarray], length: int, seconds: float, stride: int = STRIDE) -> list:
    """Fit the other codes: bins, FAST at a fine and a coarse scale, and BEAST with ten points a second."""
    chunks = windows_of([e for e in fitted if len(e) > length], length, stride)
    return [Bins(chunks), Fast(chunks, 10), Fast(chunks, 4), Beast(chunks, max(6, round(10 * seconds)))]


def figure(path: Path, codec: Codec, fitted: list[np.ndarray], held_out: list[np.ndarray], points: int) -> None:
    """Plot the error on held-out chunks against bits: every prefix of ours, other codes over a range of settings."""
    length = codec.config.length
    windows = windows_of(held_out, length + 1, max(1, length // 4))
    starts, chunks = windows[:, 0], windows[:, 1:]
    ids = codec.encode(chunks, starts)
    prefixes = range(1, codec.config.ids + 1)
    ours = [(n * codec.config.bits, rms(codec.decode(ids[:, :n], starts) - chunks)) for n in prefixes]
    known, lines = windows_of([e for e in fitted if len(e) > length], length, STRIDE), {"semagram, every prefix": ours}
    for name, codes in (
        ("FAST, coarse to fine", [Fast(known, scale) for scale in (2, 4, 7, 10, 16)]),
        ("BEAST, few to many points", [Beast(known, max(6, round(points * s))) for s in (0.5, 0.75, 1, 1.5, 2)]),
    ):
        lines[name] = []
        for code in codes:
            written = [code.encode(chunk) for chunk in chunks]
            bits = float(np.mean(list(map(len, written))) * np.log2(code.vocabulary))
            lines[name].append((bits, rms(decoded(code, written, starts) - chunks)))
    drawing = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    axes = drawing.subplots()
    for (name, line), style in zip(lines.items(), ("o-", "s--", "^--"), strict=True):
        axes.plot(*zip(*line, strict=True), style, color="#1b1b3a" if "semagram" in name else "#9aa0a6", label=name)
    axes.set(xscale="log", yscale="log", xlabel="bits a chunk", ylabel="RMSE (half the range is 1)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path)


def split(episodes: list[np.ndarray], seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Split episodes at random into those to fit to and 30 % held out, scaled by the quantiles of the former."""
    order = np.random.default_rng(seed).permutation(len(episodes))
    count = min(len(episodes) - 1, max(1, round(0.3 * len(episodes))))
    fitted, held_out = ([episodes[i].astype(float) for i in sorted(part)] for part in (order[count:], order[:count]))
    scaling = Scaling.fit(fitted)
    return [scaling.scale(e) for e in fitted], [scaling.scale(e) for e in held_out]


DEFAULTS = (("out", "runs/codec", Path), ("strings", 100_000, int), ("seed", 0, int))


def main() -> None:
    """Fit, measure, draw and print."""
    keys = dict(pair.split("=", 1) for pair in sys.argv[2:])
    out, strings, seed = (kind(keys.pop(k, v)) for k, v, kind in DEFAULTS)
    config = build(TokensConfig, {"verb": "fit", "dataset": sys.argv[1]} | {k: json.loads(v) for k, v in keys.items()})
    recording = datasets.read(Path(config.dataset))
    choice = settings(config, recording.rate_hz)
    fitted, held_out = split(recording.episodes, seed)
    codec = Codec.fit(fitted, choice)
    rows = []
    for code in (codec, *rivals(fitted, choice.length, config.seconds)):
        rows.append(measure(code, held_out, choice.length, strings, seed))
        print(json.dumps(rows[-1]), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "table.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(row | {"prefix_rmse": " ".join(f"{e:.6f}" for e in row["prefix_rmse"])} for row in rows)
    figure(out / "rate-distortion.png", codec, fitted, held_out, max(6, round(10 * config.seconds)))


if __name__ == "__main__":
    main()
