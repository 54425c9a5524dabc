"""The verbs of semagram-tokens: demonstrate with the simulated arm, fit a codec to a dataset, draw what it encodes."""

from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import numpy as np

from configs.schema import TokensConfig
from policies.codec import Codec, CodecConfig
from policies.codec.codec import check_place
from policies.codec.fitting import Scaling, windows_of
from policies.settings import CodecChoices
from policies.tokens.vocabulary import read_sentence, unfit
from robot import datasets
from worldmodel.errors import UserError

TASK, RATE_HZ, MOST_S = "so101-pick-lift", 50, 6.0
"""What the simulated arm demonstrates: the task of its script, joint targets a second, the longest episode."""
HOLD_S = 0.3
"""How long an episode continues after the script is done."""


def tokens(config: TokensConfig, folder: Path) -> dict:
    """Do what the verb of semagram-tokens says."""
    return {"fit": fit, "draw": draw, "demo": demo}[config.verb](config, folder)


def demo(config: TokensConfig, folder: Path) -> dict:
    """Write demonstrations of the simulated SO-101 as a LeRobotDataset.

    Raises DatasetError if the folder already exists or cannot be written.
    """
    from sim.so101.joints import JOINTS

    out = Path(config.out)
    if out.exists():  # before the demonstrations, which take seconds to make
        raise datasets.DatasetError(f"{out}: already there; a dataset is written to a new folder")
    episodes = demonstrations(config.seed, config.episodes)
    datasets.write(out, datasets.Recording(episodes, JOINTS, RATE_HZ), "Pick up the red cube.")
    return {"dataset": str(out), "episodes": len(episodes), "steps": sum(map(len, episodes)), "rate_hz": RATE_HZ}


def demonstrations(seed: int, count: int) -> list[np.ndarray]:
    """Return `count` episodes, each (T, 6) float32: targets in rad of the joints in `sim.so101.joints`, at RATE_HZ.

    The same seed gives the same episodes. Where the expert cannot reach the cube, or not lift it in MOST_S, another
    layout takes its place.
    """
    from envs import suite
    from sim.so101 import scene as so101
    from sim.so101.experts import Unreachable

    with suite.quiet():
        env = so101.build(TASK, RATE_HZ, end_on_success=False)
    layouts, episodes = np.random.default_rng(seed), list[np.ndarray]()
    while len(episodes) < count:
        with suppress(Unreachable):
            episode = _episode(env, int(layouts.integers(2**31)))
            if episode is not None:
                episodes.append(episode)
    env.close()
    return episodes


def _episode(env, layout: int) -> np.ndarray | None:
    """Return the targets of one episode, or None if it takes longer than MOST_S. Raises Unreachable."""
    from sim.so101.experts import EXPERTS

    env.reset(seed=layout)
    driver = EXPERTS[TASK](env, np.random.default_rng(layout))
    targets: list[np.ndarray] = []
    left = round(HOLD_S * RATE_HZ)
    while left:
        left -= driver.done()
        targets.append(driver.target().astype(np.float32))
        env.step(targets[-1])
        if len(targets) > MOST_S * RATE_HZ:
            return None
    return np.array(targets)


def fit(config: TokensConfig, folder: Path) -> dict:
    """Fit a codec to all of a dataset and save it."""
    out = Path(config.out) if config.out else folder / "codec"
    check_place(out)  # before fitting, which takes minutes for a long dataset
    recording = datasets.read(Path(config.dataset))
    choice = settings(config, recording.rate_hz)
    check_lengths(config, choice.length, recording.episodes)
    codec = Codec.fit(recording.episodes, choice)
    codec.save(out)
    return {"codec": str(out), "episodes": len(recording.episodes), **about(codec, recording.names)}


def draw(config: TokensConfig, folder: Path) -> dict:
    """Draw a held-out chunk as its ids refine it and an episode as a glyph, or just the glyph of a sentence."""
    from configs.codec.drawing import decoded_sentence, draw_glyph, draw_refinement

    if config.plan:
        return draw_glyph(read_sentence(Path(config.plan)), folder)
    recording = datasets.read(Path(config.dataset))
    choice = settings(config, recording.rate_hz)
    if wrong := unfit(choice.curve_points, choice.length / recording.rate_hz):
        raise UserError(
            f"seconds={config.seconds:g} control_points={config.control_points} at {recording.rate_hz:g} Hz: {wrong}"
        )
    fitted, held_out = split(recording.episodes, config)
    check_lengths(config, choice.length, fitted, held_out)
    codec = Codec.fit(fitted, choice)
    window = windows_of(held_out, codec.config.length + 1, codec.config.length)[0]
    ids = codec.encode(window[1:], window[0])
    folder.mkdir(parents=True, exist_ok=True)
    draw_refinement(folder / "chunk.png", codec, window, ids, recording.names)
    glyph = draw_glyph(decoded_sentence(codec, held_out, recording.rate_hz), folder)
    return {"figure": str(folder / "chunk.png"), "ids": ids.tolist(), **glyph, **about(codec, recording.names)}


def settings(config: TokensConfig, rate_hz: float) -> CodecConfig:
    """Return the codec's settings for a dataset of this rate. Raises ValueError if a chunk is below two steps."""
    length = round(config.seconds * rate_hz)
    if length < 2:
        raise UserError(f"seconds={config.seconds:g}: a chunk of {length} steps at {rate_hz:g} Hz; at least 2")
    return CodecConfig(**{f.name: getattr(config, f.name) for f in fields(CodecChoices)}, length=length)


def check_lengths(config: TokensConfig, length: int, *parts: list[np.ndarray]) -> None:
    """Raise ValueError if a part of a dataset has no episode longer than a chunk of `length` steps."""
    longest = min(max(map(len, episodes)) for episodes in parts)
    if longest <= length:
        raise UserError(
            f"seconds={config.seconds:g}: a chunk has {length} steps, and one comes before; the longest episode to fit "
            f"to, or to draw, has {longest}"
        )


def split(episodes: list[np.ndarray], config: TokensConfig) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Split episodes at random into those to fit to and those held out.

    Both are scaled so that the 1 % and 99 % quantiles of the former are -1 and 1; some values lie outside. Raises
    ValueError for fewer than two episodes.
    """
    if len(episodes) < 2:
        raise UserError(f"dataset={config.dataset}: {len(episodes)} episode; at least 2, to hold one out")
    order = np.random.default_rng(config.seed).permutation(len(episodes))
    count = min(len(episodes) - 1, max(1, round(config.held_out * len(episodes))))
    fitted = [episodes[i].astype(float) for i in sorted(order[count:])]
    scaling = Scaling.fit(fitted)
    held_out = [episodes[i].astype(float) for i in sorted(order[:count])]
    return [scaling.scale(e) for e in fitted], [scaling.scale(e) for e in held_out]


def about(codec: Codec, names: tuple[str, ...]) -> dict:
    """Summarize a codec: chunk length, names of channels and of those that switch, bits per string."""
    bits = codec.config.ids * codec.config.bits
    switching = [names[c] for c in codec.switching]
    return {"length": codec.config.length, "channels": list(names), "switching": switching, "string_bits": bits}
