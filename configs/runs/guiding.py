"""semagram-guide: what a person says, compiled into a guidance; the quantities there are; a guidance, described."""

import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from configs.reporting import progress_bar, say, unread
from configs.runs.loading import prepare
from configs.schema import WAYS, GuideConfig, MachineConfig
from policies.guidance import compiling, library, wishes
from policies.guidance.memory import Memory
from policies.guidance.storage import (
    SPEC,
    TENSORS,
    GuidanceSpec,
    Reading,
    check_place,
    load_guidance,
    save_guidance,
    sum_of_model,
)
from policies.storage.checkpoint import REPLAY, AgentSpec, find_checkpoint, load_model, read_spec, read_tensors
from policies.storage.folders import FolderError, check_folder
from worldmodel.errors import UserError, in_one_line
from worldmodel.guidance import Guidance, Head, Probes, Term, nearby
from worldmodel.guidance_fit import fit
from worldmodel.model import WorldModel
from worldmodel.observation import FrameHistory, Observation
from worldmodel.replay import Replay, ReplayMismatch
from worldmodel.senses import is_image

LIBRARIES = Path(__file__).parents[1] / "guidance"
DRAWN = 4000


@dataclass(frozen=True)
class Known:
    """A checkpoint, and what its agent remembers."""

    path: Path
    spec: AgentSpec
    model: WorldModel
    memory: Memory
    probes: Probes
    seconds: float

    @classmethod
    def of(cls, config: GuideConfig) -> "Known":
        """Load it. Raises FolderError, among others for a checkpoint without a replay or quantities."""
        begun = time.perf_counter()
        prepare(MachineConfig("cpu", config.threads, "false"))
        path = find_checkpoint(Path(config.checkpoint))
        spec = read_spec(path)
        model = load_model(path, spec)
        memory = remembered(path, model)
        return cls(path, spec, model, memory, memory.probes(), time.perf_counter() - begun)

    @property
    def readings(self) -> dict[str, Reading]:
        """How well each quantity is read."""
        return compiling.readings(self.probes, self.spec.quantities)


def remembered(path: Path, model: WorldModel) -> Memory:
    """Read the replay of a checkpoint, encoded by `model`. Raises FolderError."""
    spec = read_spec(path)
    if not spec.quantities:
        raise FolderError(f"{path}: no quantities were recorded when it was trained; train again to guide it")
    check_folder(path, (REPLAY,))
    if differing := [key for key in model.senses if spec.senses.get(key) != model.senses[key]]:
        raise FolderError(f"{path}: its {differing[0]} is not the agent's, {model.senses[differing[0]]}")
    try:
        replay = Replay.read(read_tensors(path / REPLAY), spec.senses, model.config.vision.frame_lags)
    except ReplayMismatch as error:
        raise FolderError(f"{path / REPLAY}: not what its model saw ({error})") from error
    if not replay.steps:
        raise FolderError(f"{path / REPLAY}: holds no step")
    return Memory.of(replay, model, tuple(spec.quantities))


@dataclass(frozen=True)
class Said:
    """What was said, compiled. `of`: what it was made from. `told`: what else to tell about it."""

    terms: tuple[Term, ...]
    sentence: str = ""
    weight: float | None = None
    head: Head | None = None
    of: dict = field(default_factory=dict)
    told: dict = field(default_factory=dict)


def guide(config: GuideConfig, folder: Path) -> dict:
    """Do what semagram-guide does; `folder`: whose name a guidance gets that is told none."""
    if config.show == "quantities":
        return quantities(Known.of(config))
    if config.show:
        return describe(Path(config.show), Known.of(config))
    path = find_checkpoint(Path(config.checkpoint))
    run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    out = Path(config.out) if config.out else run / "guidance" / folder.name
    check_place(out)  # before the fit
    known = Known.of(config)
    begun = time.perf_counter()
    way = next(way for way in WAYS if getattr(config, way))
    said = SAYING[way](getattr(config, way), config, known)
    readings = known.readings
    wishes.check(said.terms, readings, config.beyond or way in ("goal", "examples"))
    chosen = [term.quantity for term in said.terms]
    guidance = Guidance(said.terms, known.probes.chosen(chosen), None, said.head)
    sentence = said.sentence or wishes.sentence(said.terms, known.spec.quantities)
    weight = next(each for each in (config.weight, said.weight, 1.0) if each is not None)
    spec = GuidanceSpec(
        *(sentence, said.terms, weight, {"way": way, **said.of}, sum_of_model(known.path)),
        {name: readings[name] for name in chosen},
    )
    compiled = time.perf_counter()
    say(f"{sentence}{'' if not config.fit else '; learning a value and a policy for it'}")
    if config.fit:
        guidance = _fitted(guidance, known, config)
    fitted = time.perf_counter()
    save_guidance(out, guidance, spec)
    return {
        "guidance": str(out),
        "sentence": sentence,
        "quantities": {name: round(readings[name].r2, 4) for name in chosen},
        "met": round(float(compiling.met(said.terms, known.memory).float().mean()), 4),
        **said.told,
        "bytes": sum((out / name).stat().st_size for name in (SPEC, TENSORS)),
        "memory_seconds": round(known.seconds, 3),
        "compile_seconds": round(compiled - begun, 4),
        "fit_seconds": round(fitted - compiled, 2) if config.fit else None,
    }


def _fitted(guidance: Guidance, known: Known, config: GuideConfig) -> Guidance:
    """Return the guidance with a value and a policy for it."""
    generator, memory = torch.Generator().manual_seed(config.seed), known.memory
    if guidance.terms:
        values = memory.quantities[:, [memory.names.index(term.quantity) for term in guidance.terms]]
        told = guidance.terms, guidance.probes, memory.remembered.z, values, memory.episode
        guidance = replace(guidance, probes=nearby(*told, generator))
    with progress_bar(config.updates, desc="fit") as bar:
        learned = fit(
            *(known.model, guidance, memory.remembered, known.spec.discount, config.updates, generator),
            tick=lambda update: bar.update(update - bar.n),
        )
    return replace(guidance, fitted=learned)


def wanted(want: str, config: GuideConfig, known: Known) -> Said:
    """Compile a wish."""
    wish = wishes.read(want)
    return Said(wishes.parse(wish.want, known.spec.quantities), wish.sentence, wish.weight)


def goal(said: str, config: GuideConfig, known: Known) -> Said:
    """Compile a moment to be at."""
    try:
        z = _latent(said, known)
    except UserError as error:
        raise UserError(f"goal={said}: {error}".replace(f"goal={said}: goal={said}: ", f"goal={said}: ")) from error
    return Said(compiling.near(z, known.probes, known.memory), of={"goal": said})


def _latent(said: str, known: Known) -> Float[Tensor, " D"]:
    """Return the latent of the moment that `goal=` names. Raises UserError."""
    found = re.fullmatch(r"(.+):(\d+):(\d+)", said)
    place = Path(found[1] if found else said)
    if not found:
        observation = _observation(place, known.model)
    elif not place.is_dir():
        raise UserError("no such folder; <run or dataset>:<episode>:<step>, or a file of an observation")
    elif (place / "meta" / "info.json").exists():
        observation = _frame(place, int(found[2]), int(found[3]), known.model)
    else:
        other = find_checkpoint(place)
        memory = known.memory if other.resolve() == known.path.resolve() else remembered(other, known.model)
        return memory.remembered.z[compiling.moment(memory, int(found[2]), int(found[3]), f"goal={said}")]
    with torch.no_grad():
        seen = FrameHistory(known.model.config.vision.frame_lags).see(observation)
        return known.model.encode(known.model.preprocess(seen))[0]


def _observation(file: Path, model: WorldModel) -> Observation:
    """Read an observation, each sense an array by LeRobot's key, from a file. Raises UserError."""
    if file.suffix not in (".npz", ".safetensors") or not file.is_file():
        raise UserError("no such .npz or .safetensors file; or <run or dataset>:<episode>:<step>")
    if file.suffix == ".safetensors":
        values: Mapping = read_tensors(file)
    else:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                values = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        except Exception as error:  # of zipfile's, NumPy's or PyTorch's many
            raise UserError(f"not readable ({in_one_line(error)})") from error
    kinds = {key: torch.uint8 if is_image(key) else torch.float32 for key in model.senses.keys() & values.keys()}
    return Observation.of(model.senses, {key: values[key][None].to(kind) for key, kind in kinds.items()})


def _frame(folder: Path, episode: int, step: int, model: WorldModel) -> Observation:
    """Read a frame of a LeRobotDataset, as far as the model has senses for it. Raises UserError."""
    from robot import datasets

    recording = datasets.read(folder)
    if episode >= len(recording.episodes):
        raise UserError(f"episode {episode}: it has {len(recording.episodes)}, from 0")
    if step >= len(recording.episodes[episode]):
        raise UserError(f"step {step}: episode {episode} has {len(recording.episodes[episode])}, from 0")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from robot.modeling_semagram import perceived

    with datasets.quiet():
        row = sum(map(len, recording.episodes[:episode])) + step
        frame = LeRobotDataset(f"local/{folder.name}", root=folder)[row]
    batch = {key: value[None] for key, value in frame.items() if isinstance(value, Tensor)} | {"task": [frame["task"]]}
    return perceived(batch, model.senses, wordless=True)


def examples(said: str, config: GuideConfig, known: Known) -> Said:
    """Compile what good examples have in common."""
    good, bad = compiling.read_examples(said, known.memory)
    terms = compiling.alike(good, known.probes, known.memory)
    z, made = known.memory.remembered.z, Guidance(terms, known.probes.chosen([term.quantity for term in terms]))
    apart = compiling.auc(made, z[good], z[bad])
    say(f"{len(good)} good, {len(bad)} bad{'' if apart is None else f', told apart with an AUC of {apart:.3f}'}")
    return Said(terms, of={"examples": said}, told={"auc": apart and round(apart, 4)})


def reward(said: str, config: GuideConfig, known: Known) -> Said:
    """Compile a function of the quantities."""
    sys.path.append(os.getcwd())  # where its module may be
    try:
        function = resolve_name(said)
    except Exception as error:  # of whatever the module does
        raise UserError(f"reward={said}: {in_one_line(error)}; module:function is needed") from error
    if ":" not in said or not callable(function):
        raise UserError(f"reward={said}: no function; module:function is needed")
    head = compiling.rewarding(function, known.memory, f"reward={said}")
    r2 = round(head.r2, 4)
    return Said((), f"make {said} high", None, head, {"reward": said, "r2": r2}, {"reward_r2": r2})


def words(said: str, config: GuideConfig, known: Known) -> Said:
    """Compile what the library's nearest sentence stands for. Raises UserError if several may be meant."""
    domain = str(known.spec.task.get("name", "")).partition("-")[0]
    path = Path(config.library) if config.library else LIBRARIES / f"{domain}.yaml"
    if not path.exists():
        shipped = ", ".join(sorted(each.stem for each in LIBRARIES.glob("*.yaml")))
        raise UserError(f"library={config.library}: a YAML file of guidances is needed; there are some for {shipped}")
    entries = library.meant(said, library.read_library(path))
    if len(entries) > 1:
        _print([f"words='{entry.sentence}'" for entry in entries])
        raise UserError(f"words='{said}': may mean any of these {len(entries)}; say one of them")
    (entry,) = entries
    return Said(wishes.parse(entry.want, known.spec.quantities), entry.sentence, of={"words": said})


SAYING = {"want": wanted, "goal": goal, "examples": examples, "reward": reward, "words": words}


def _print(lines: list[str]) -> None:
    with unread():
        print("\n".join(lines), flush=True)


def quantities(known: Known) -> dict:
    """Print a table of the quantities; return it."""
    wide = max(map(len, known.readings))
    rows = [f"{name:<{wide}} {r.r2:7.3f} {r.low:10.4g} {r.high:10.4g}  {r.unit}" for name, r in known.readings.items()]
    _print([f"{'quantity':<{wide}} {'R2':>7} {'low':>10} {'high':>10}  unit", *rows])
    finite = partial(_rounded, digits=4)
    return {
        name: {"r2": finite(r.r2), "low": finite(r.low), "high": finite(r.high), "unit": r.unit}
        for name, r in known.readings.items()
    }


def _rounded(value: float, digits: int) -> float | None:
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def describe(folder: Path, known: Known) -> dict:
    """Print a guidance as a paragraph, and draw where in the memory it is high and low; return what it printed."""
    guidance, spec = load_guidance(folder, known.path, known.model)
    rewards = guidance.reward(known.memory.remembered.z)
    share = float(compiling.met(spec.terms, known.memory).float().mean())
    probes = ", ".join(f"{name} (R2 {r.r2:.3f})" for name, r in spec.probes.items()) or "no quantity by itself"
    made = ", ".join(str(value) for value in spec.made_from.values())
    text = (
        f"This guidance says: {spec.sentence}. It was made from {made}, weighs {spec.weight:g} (0: the agent as it "
        f"was, 1: it alone), reads {probes}, and has {'a' if guidance.fitted else 'no'} value and policy of its own. "
        f"In the {len(rewards):,} moments that are remembered, its reward is {float(rewards.mean()):.2f} in the mean "
        f"and {float(rewards.max()):.2f} at most; all terms hold at {share:.1%} of them."
    )
    _print([text])
    _draw(folder / "guidance.png", guidance, spec, known, rewards)
    return {
        "guidance": str(folder),
        "sentence": spec.sentence,
        "met": round(share, 4),
        "picture": f"{folder}/guidance.png",
    }


def _draw(path: Path, guidance: Guidance, spec: GuidanceSpec, known: Known, rewards: Tensor) -> None:
    """Draw remembered moments by the first two terms' quantities, else the latents' principal axes, in their reward."""
    from matplotlib.figure import Figure

    from envs.benchmark.figures import save

    rows = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(0))[:DRAWN]
    rows = rows[rewards[rows].argsort()]  # the highest on top
    shown = spec.terms[:2] if len(spec.terms) > 1 else ()
    if shown:
        names = [term.quantity for term in shown]
        places = known.memory.quantities[rows][:, [known.memory.names.index(name) for name in names]]
        names = [f"{name} {known.spec.quantities[name]}".strip() for name in names]
    else:
        z = known.memory.remembered.z[rows]
        places = (z - z.mean(0)) @ torch.linalg.svd(z - z.mean(0), full_matrices=False).Vh[:2].T
        names = ["first principal axis of the latents", "second"]
    figure = Figure(figsize=(7, 5.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    dots = axes.scatter(
        places[:, 0].numpy(), places[:, 1].numpy(), c=rewards[rows].numpy(), s=6, cmap="viridis", vmin=0, vmax=1
    )
    for term, along in zip(shown, (axes.axvline, axes.axhline), strict=False):
        for end in (term.low, term.high):
            if np.isfinite(end):
                along(end, color="#D55E00", lw=1)
    axes.set(xlabel=names[0], ylabel=names[1], title=spec.sentence)
    figure.colorbar(dots, label="reward of the guidance")
    save(path, figure)
