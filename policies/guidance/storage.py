"""A guidance on disk: guidance.json, which a person can read, and guidance.safetensors. Loading executes nothing."""

import copy
import json
import math
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from policies.storage import folders
from policies.storage.checkpoint import MODEL, read_tensors, write_tensors
from policies.storage.folders import FORMAT, FolderError, check_folder, check_format, made_by, sum_of, write_folder
from worldmodel.errors import UserError
from worldmodel.guidance import Fitted, Guidance, Head
from worldmodel.model import WorldModel
from worldmodel.probes import WIDE, Probes
from worldmodel.settings import Term, Via
from worldmodel.strict import build

SPEC, TENSORS = "guidance.json", "guidance.safetensors"


@dataclass(frozen=True)
class Reading:
    """How a named quantity is read: the probe's coefficient of determination, the range seen, its unit ("" if none)."""

    r2: float
    low: float
    high: float
    unit: str = ""


@dataclass(frozen=True)
class GuidanceSpec:
    """What a guidance says and comes from.

    `weight`: of the guidance against the agent's own reward, 0 to 1. `made_from`: the way it was said and what was
    said. `checkpoint`: the SHA-256 of the checkpoint's model.safetensors. `probes`: those of its terms, by name.
    """

    sentence: str
    terms: tuple[Term, ...]
    weight: float
    made_from: dict
    checkpoint: str
    probes: dict[str, Reading]
    vias: tuple[Via, ...] = ()


READING = tuple(each.name for each in fields(Reading))


def sum_of_model(checkpoint: Path) -> str:
    """Return the SHA-256 of a checkpoint's weights, as its manifest has it."""
    return sum_of(checkpoint / MODEL)[1]


def save_guidance(folder: Path, guidance: Guidance, spec: GuidanceSpec) -> None:
    """Write a guidance as a folder, or nothing. Raises FileExistsError as `folders.check_place`, OSError.

    In the JSON a term is [quantity, low, high], with null for an infinite end, and a probe [r2, low, high, unit], as
    the whole is to stay below 1 KB. Probes are saved in float16, scaled such that 0 and 1 are the ends of the range
    seen; a fitted value and actor as they are.
    """
    folders.check_place(folder)
    saved = (
        {"format": FORMAT}
        | asdict(spec)
        | {
            "terms": [[t.quantity, *(_plain(end) for end in (t.low, t.high))] for t in spec.terms],
            "probes": {
                name: [round(r.r2, 4), _short(r.low), _short(r.high), r.unit] for name, r in spec.probes.items()
            },
        }
    )
    lines = [f'"{k}": {json.dumps(v, ensure_ascii=False, separators=(",", ": "))}' for k, v in saved.items()]
    text = "{" + ",\n".join(lines) + "}\n"
    low, span = _range(spec)
    probes, head = guidance.probes, guidance.head
    rows = (
        torch.cat([probes.weight, (probes.bias - low.to(probes.bias)).unsqueeze(1)], 1) / span.to(probes.bias)[:, None]
    )
    tensors: dict = {"probes": rows.half()} if spec.terms else {}
    if probes.doubt is not None:
        tensors["doubt"] = (probes.doubt / span.to(probes.doubt)).half()
    if head is not None:
        tensors["head"] = torch.cat([head.weight, head.weight.new_tensor([head.bias, head.r2])]).half()
    if guidance.fitted is not None:
        tensors |= {"value": guidance.fitted.value.state_dict(), "actor": guidance.fitted.actor.state_dict()}
    write_folder(folder, {SPEC: text.encode(), TENSORS: partial(write_tensors, tensors=tensors)}, made_by())


def load_guidance(path: Path, checkpoint: Path, model: WorldModel) -> tuple[Guidance, GuidanceSpec]:
    """Load a guidance of `model`, which is that of `checkpoint`. Raises FolderError if it is damaged or of another."""
    spec = read_spec(path)
    if spec.checkpoint != (own := sum_of_model(checkpoint)):
        made = f"made for another checkpoint (weights {spec.checkpoint[:8]}, those of {checkpoint} are {own[:8]})"
        raise FolderError(f"{path}: {made}; semagram-guide checkpoint={checkpoint} makes one for this")
    saved, like = read_tensors(path / TENSORS), model.shows
    size, count = model.config.latent, len(spec.terms)
    low, span = (each.to(like.device) for each in _range(spec))
    rows = _tensor(path, saved, "probes", (count, size + 1), like, WIDE) if count else like.new_zeros(0, size + 1)
    r2 = like.new_tensor([spec.probes[term.quantity].r2 for term in spec.terms])
    rows = rows * span[:, None]
    names = tuple(term.quantity for term in spec.terms)
    doubt = _tensor(path, saved, "doubt", (count,), like) * span if "doubt" in saved else None
    probes = Probes(names, rows[:, :-1].contiguous(), rows[:, -1] + low, r2, low, low + span, doubt)
    head, fitted = None, None
    if "head" in saved:
        *_, bias, trust = values = _tensor(path, saved, "head", (size + 2,), like, WIDE)
        head = Head(values[:-2].contiguous(), float(bias), float(trust))
    if "value" in saved or "actor" in saved:
        fitted = Fitted(_net(path, saved, "value", model.value), _net(path, saved, "actor", model.actor))
    for via in spec.vias:
        if via.action >= model.action_size or not all(0 <= at < model.state_size for at in via.state):
            raise FolderError(f"{path / SPEC}: via: not of this model's actions or state")
    return Guidance(spec.terms, probes, fitted, head, spec.vias), spec


def read_spec(path: Path) -> GuidanceSpec:
    """Read what a guidance says. Raises FolderError if it is damaged or none."""
    check_folder(path, (SPEC, TENSORS))
    file = path / SPEC
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        check_format(file, saved.pop("format", 0))
        terms = [
            {"quantity": name, "low": -math.inf if low is None else low, "high": math.inf if high is None else high}
            for name, low, high in saved["terms"]
        ]
        probes = {name: dict(zip(READING, given, strict=True)) for name, given in saved["probes"].items()}
        spec = build(GuidanceSpec, saved | {"terms": terms, "probes": probes})
        if lacking := {term.quantity for term in spec.terms} - spec.probes.keys():
            raise UserError(f"no probe of {', '.join(lacking)}")
        if not 0 <= spec.weight <= 1:
            raise UserError(f"weight={spec.weight}: from 0 to 1")
    except FolderError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FolderError(f"{file}: not of a guidance ({error})") from error
    return spec


def _range(spec: GuidanceSpec) -> tuple[Tensor, Tensor]:
    """Return the lowest value (T,) and the span (T,) of each term's quantity, as they are saved."""
    readings = [spec.probes[term.quantity] for term in spec.terms]
    low, high = (torch.tensor([_short(getattr(each, end)) for each in readings]) for end in ("low", "high"))
    return low, torch.where(high > low, high - low, torch.ones(()))


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _plain(end: float) -> float | None:
    return float(f"{end:.6g}") if math.isfinite(end) else None


def _tensor(path: Path, saved: dict, name: str, shape: tuple[int, ...], like: Tensor, wider: int = 0) -> Tensor:
    """Return a saved tensor of this shape, or with a last axis by `wider` longer. Raises FolderError."""
    found = saved[name]
    shapes = shape, (*shape[:-1], *(size + wider for size in shape[-1:]))
    if not isinstance(found, Tensor) or tuple(found.shape) not in shapes or not bool(found.isfinite().all()):
        got = tuple(found.shape) if isinstance(found, Tensor) else "a group"
        raise FolderError(f"{path / TENSORS}: {name} is {got}; {shape} and finite is needed")
    return found.to(like)


def _net[Net: nn.Module](path: Path, saved: dict, name: str, own: Net) -> Net:
    """Return a net like the model's `own` with the weights saved under `name`."""
    net, group = copy.deepcopy(own).requires_grad_(False), saved[name]
    wanted = net.state_dict()
    if not isinstance(group, dict) or group.keys() != wanted.keys():
        raise FolderError(f"{path / TENSORS}: {name} is not a net of this model's kind")
    net.load_state_dict({key: _tensor(path, group, key, tuple(value.shape), value) for key, value in wanted.items()})
    return net
