"""semagram-guide: what a person says, compiled into a guidance; the quantities there are; a guidance, described."""

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from configs.page import short
from configs.reporting import progress_bar, say, show
from configs.runs.frames import Frames, encoded
from configs.runs.loading import prepare, task_of
from configs.schema import WAYS, GuideConfig, MachineConfig
from envs import arm
from envs.make import make
from policies.guidance import compiling, storage, wishes
from policies.guidance.compiling import Memory
from policies.storage import checkpoint as checkpoints
from policies.storage.folders import FolderError, check_place
from worldmodel.errors import UserError, in_one_line
from worldmodel.guidance import Guidance, Head
from worldmodel.guidance_fit import fit
from worldmodel.model import WorldModel
from worldmodel.observation import Observation
from worldmodel.probes import Probes, nearby
from worldmodel.senses import is_image
from worldmodel.settings import Term, Via

LIBRARIES = Path(__file__).parents[1] / "guidance"
DRAWN = 4000


@dataclass(frozen=True)
class Known:
    """A checkpoint, what its agent remembers, probes that read that, and those that read what it imagines, too."""

    path: Path
    spec: checkpoints.AgentSpec
    model: WorldModel
    memory: Memory
    probes: Probes
    foreseeing: Probes
    seconds: float

    @classmethod
    def of(cls, config: GuideConfig) -> "Known":
        """Load it. Raises FolderError, among others for a checkpoint without a replay or quantities."""
        begun = time.perf_counter()
        prepare(MachineConfig("cpu", config.threads, "false"))
        path = checkpoints.find_checkpoint(Path(config.checkpoint))
        spec = checkpoints.read_spec(path)
        memory = remembered(path, model := checkpoints.load_model(path, spec))
        probes = memory.probes()
        ahead = memory.foreseeing(probes, model)
        return cls(path, spec, model, memory, probes, ahead, time.perf_counter() - begun)

    @property
    def readings(self) -> dict[str, storage.Reading]:
        """How well each quantity is read."""
        return compiling.readings(self.probes, self.spec.quantities)


def remembered(path: Path, model: WorldModel) -> Memory:
    """Read the replay of a checkpoint, encoded by `model`. Raises FolderError."""
    spec = checkpoints.read_spec(path)
    if not spec.quantities:
        raise FolderError(f"{path}: no quantities were recorded when it was trained; train again to guide it")
    if differing := [key for key in model.senses if spec.senses.get(key) != model.senses[key]]:
        raise FolderError(f"{path}: its {differing[0]} is not the agent's, {model.senses[differing[0]]}")
    replay = checkpoints.read_replay(path, spec.senses, model.config.vision.frame_lags)
    if not replay.steps:
        raise FolderError(f"{path / checkpoints.REPLAY}: holds no step")
    return Memory.of(replay, model, tuple(spec.quantities))


@dataclass(frozen=True)
class Compiled:
    """What somebody said, compiled. `made_from`: what was said. `facts`: what else the last line reports of it."""

    terms: tuple[Term, ...]
    sentence: str = ""
    weight: float | None = None
    head: Head | None = None
    made_from: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)


def guide(config: GuideConfig, folder: Path) -> dict:
    """Do what semagram-guide does; `folder`: whose name a guidance gets that is given none."""
    if config.show == "quantities":
        return quantities(Known.of(config))
    if config.show:
        return describe(Path(config.show), Known.of(config))
    path = checkpoints.find_checkpoint(Path(config.checkpoint))
    run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    out = Path(config.out) if config.out else run / "guidance" / folder.name
    check_place(out)  # before the fit
    known, begun = Known.of(config), time.perf_counter()
    vias = passed(config.via, known) if config.via else ()
    way = next((way for way in WAYS if getattr(config, way)), "via")
    compiled = Compiled(()) if way == "via" else COMPILERS[way](getattr(config, way), config, known)
    terms, readings = compiled.terms, known.readings
    wishes.check(terms, readings, config.beyond or way in ("goal", "examples"))
    guidance = Guidance(terms, known.foreseeing.chosen([term.quantity for term in terms]), None, compiled.head, vias)
    said = compiled.sentence or wishes.sentence(terms, known.spec.quantities)
    sentence = "; ".join(filter(None, [said, ", ".join(f"pass {via.said}" for via in vias)]))
    weight = next(each for each in (config.weight, compiled.weight, 1.0) if each is not None)
    spec = storage.GuidanceSpec(
        *(sentence, terms, weight, {"way": way, **compiled.made_from}, storage.sum_of_model(known.path)),
        *({term.quantity: readings[term.quantity] for term in terms}, vias),
    )
    times = [begun, time.perf_counter()]
    fits = config.fit and way != "via"
    say(f"{sentence}{'; learning a value and a policy for it' if fits else ''}")
    if fits:
        guidance = _fitted(guidance, known, config)
    times.append(time.perf_counter())
    storage.save_guidance(out, guidance, spec)
    return {
        "guidance": str(out),
        "sentence": sentence,
        "quantities": {name: round(reading.r2, 4) for name, reading in spec.probes.items()},
        "fulfilled_in_memory": _share(terms, known),
        **compiled.facts,
        "bytes": sum((out / name).stat().st_size for name in (storage.SPEC, storage.TENSORS)),
        "memory_seconds": round(known.seconds, 3),
        "compile_seconds": round(times[1] - times[0], 4),
        "fit_seconds": round(times[2] - times[1], 2) if fits else None,
    }


def _share(terms: Sequence[Term], known: Known) -> float:
    """Return the share of what is remembered at which every term holds."""
    return round(float(compiling.fulfilled(terms, known.memory).float().mean()), 4)


def _fitted(guidance: Guidance, known: Known, config: GuideConfig) -> Guidance:
    """Return the guidance with a value and a policy for it."""
    generator, memory = torch.Generator().manual_seed(config.seed), known.memory
    if guidance.terms:
        values = memory.quantities[:, [memory.names.index(term.quantity) for term in guidance.terms]]
        known_of = guidance.terms, guidance.probes, memory.remembered.z, values, memory.episode
        guidance = replace(guidance, probes=nearby(*known_of, generator))
    with progress_bar(config.updates, desc="fit") as bar:
        learned = fit(
            *(known.model, guidance, memory.remembered, known.spec.discount, config.updates, generator),
            tick=lambda update: bar.update(update - bar.n),
        )
    return replace(guidance, fitted=learned)


def passed(said: str, known: Known) -> tuple[Via, ...]:
    """Return the via-points that somebody said, and by which actions. Raises UserError."""
    task = task_of(known.spec)
    if not task.is_arm:
        raise UserError(f"via=: {task.label}: its actions are no joints' targets or steps, as the SO-101's are")
    first = known.memory.quantities[known.memory.step == 0]
    begun = {name: first[:, i].aminmax() for i, name in enumerate(known.memory.names) if len(first)}
    with closing(make(task)) as env:
        return arm.passed(wishes.parse_via(said, arm.POSITIONS), env, begun)


def want(said: str, config: GuideConfig, known: Known) -> Compiled:
    """Compile a wish."""
    wish = wishes.read(said)
    return Compiled(wishes.parse(wish.want, known.spec.quantities), wish.sentence, wish.weight)


def goal(said: str, config: GuideConfig, known: Known) -> Compiled:
    """Compile a moment to be at."""
    try:
        z = latent(said, known.path, known.model, known.memory)
        terms = compiling.near(z, known.probes, known.memory)
    except UserError as error:
        raise UserError(f"goal={said}: {error}") from error
    return Compiled(terms, made_from={"goal": said})


def latent(said: str, path: Path, model: WorldModel, memory: Memory) -> Float[Tensor, " D"]:
    """Return the latent of a moment of a run, a dataset or a file; `memory`: of `path`. Raises UserError."""
    found = re.fullmatch(r"(.+):(\d+):(\d+)", said)
    if not found:
        return encoded(_observation(Path(said), model), model)[0]
    place, episode, step = Path(found[1]), int(found[2]), int(found[3])
    if (place / "meta").is_dir():
        frames = Frames.read(place)
        return frames.latents([frames.row(episode, step)], model)[0]
    other = checkpoints.find_checkpoint(place)
    seen = memory if other.resolve() == path.resolve() else remembered(other, model)
    return seen.remembered.z[compiling.moment(seen, episode, step)]


def _observation(file: Path, model: WorldModel) -> Observation:
    """Read an observation, each sense an array by LeRobot's key, from a file. Raises UserError."""
    if file.suffix not in (".npz", ".safetensors") or not file.is_file():
        raise UserError("no such .npz or .safetensors file; or <run or dataset>:<episode>:<step>")
    if file.suffix == ".safetensors":
        values: Mapping = checkpoints.read_tensors(file)
    else:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                values = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        except Exception as error:  # of zipfile's, NumPy's or PyTorch's many
            raise UserError(f"not readable ({in_one_line(error)})") from error
    kinds = {key: torch.uint8 if is_image(key) else torch.float32 for key in model.senses.keys() & values.keys()}
    return Observation.of(model.senses, {key: values[key][None].to(kind) for key, kind in kinds.items()})


def examples(said: str, config: GuideConfig, known: Known) -> Compiled:
    """Compile what good examples have in common: moments of the memory, or a dataset's frames of success."""
    if Path(said).is_dir():
        good, bad = (Frames.read(Path(said)).of_success(each, known.model) for each in (True, False))
        values = known.probes(good)
    else:
        rows = compiling.read_examples(said, known.memory)
        (good, bad), values = (known.memory.remembered.z[each] for each in rows), known.memory.quantities[rows[0]]
    terms = compiling.alike(values, known.probes, known.memory)
    made = Guidance(terms, known.probes.chosen([term.quantity for term in terms]))
    apart = compiling.auc(made.reward(torch.cat([good, bad])).numpy(), np.arange(len(good) + len(bad)) < len(good))
    say(f"{len(good)} good, {len(bad)} bad{'' if apart is None else f', told apart with an AUC of {apart:.3f}'}")
    return Compiled(terms, made_from={"examples": said}, facts={"auc": apart})


def reward(said: str, config: GuideConfig, known: Known) -> Compiled:
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
    return Compiled((), f"make {said} high", None, head, {"reward": said, "r2": r2}, {"reward_r2": r2})


def words(said: str, config: GuideConfig, known: Known) -> Compiled:
    """Compile what the library's nearest sentence stands for. Raises UserError if several may be meant."""
    domain = str(known.spec.task.get("name", "")).partition("-")[0]
    path = Path(config.library) if config.library else LIBRARIES / f"{domain}.yaml"
    if not path.exists():
        shipped = ", ".join(sorted(each.stem for each in LIBRARIES.glob("*.yaml")))
        raise UserError(f"library={config.library}: a YAML file of guidances is needed; there are some for {shipped}")
    entries = wishes.meant(said, wishes.read_library(path))
    if len(entries) > 1:
        show(*(f"words='{entry.sentence}'" for entry in entries))
        raise UserError(f"words='{said}': may mean any of these {len(entries)}; say one, or ask (docs/robot.md)")
    (entry,) = entries
    return Compiled(wishes.parse(entry.want, known.spec.quantities), entry.sentence, made_from={"words": said})


COMPILERS = {"want": want, "goal": goal, "examples": examples, "reward": reward, "words": words}


def quantities(known: Known) -> dict:
    """Print a table of the quantities, then which are constants or equal one in it; return all."""
    probes, readings = known.probes, known.readings
    some = known.memory.quantities[:: max(1, len(known.memory.quantities) // compiling.COMPARED)]
    equal, varied = compiling.equal(some, some).tolist(), compiling.varied(probes.low, probes.high).tolist()
    notes = {}
    for q, name in enumerate(readings):
        first = equal[q].index(True) if any(equal[q]) else q
        notes[name] = f"same as {probes.names[first]}" if first < q else "" if varied[q] else "constant"
    wide = max(map(len, readings))
    rows = [
        f"{name:<{wide}} {r.r2:7.3f} {r.low:10.4g} {r.high:10.4g}  {r.unit}"
        for name, r in readings.items()
        if not notes[name]
    ]
    rest = [f"left out: {', '.join(f'{name} ({note})' for name, note in notes.items() if note)}"] * any(notes.values())
    show(f"{'quantity':<{wide}} {'R2':>7} {'low':>10} {'high':>10}  unit", *rows, *rest)
    return {
        name: {"r2": short(r.r2), "low": short(r.low), "high": short(r.high), "unit": r.unit, "note": note}
        for (name, r), note in zip(readings.items(), notes.values(), strict=True)
    }


def describe(folder: Path, known: Known) -> dict:
    """Print a guidance as a paragraph, and draw where in the memory it is high and low; return what it printed."""
    guidance, spec = storage.load_guidance(folder, known.path, known.model)
    rewards = guidance.reward(known.memory.remembered.z)
    share = _share(spec.terms, known)
    probes = ", ".join(f"{name} (R2 {r.r2:.3f})" for name, r in spec.probes.items()) or "no quantity by itself"
    made = ", ".join(str(value) for value in spec.made_from.values())
    text = (
        f"This guidance says: {spec.sentence}. It was made from {made}, weighs {spec.weight:g} (0: the agent as it "
        f"was, 1: it alone), reads {probes}, and has {'a' if guidance.fitted else 'no'} value and policy of its own. "
        f"In the {len(rewards):,} moments that are remembered, its reward is {float(rewards.mean()):.2f} in the mean "
        f"and {float(rewards.max()):.2f} at most; all terms hold at {share:.1%} of them."
    )
    show(text)
    _draw(folder / "guidance.png", guidance, spec, known, rewards)
    return {
        "guidance": str(folder),
        "sentence": spec.sentence,
        "fulfilled_in_memory": share,
        "picture": f"{folder}/guidance.png",
    }


def _draw(path: Path, guidance: Guidance, spec: storage.GuidanceSpec, known: Known, rewards: Tensor) -> None:
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
