"""Laws of what a person says to an agent: wishes, what they compile into, and the artefact on disk."""

import json
import math

import pytest
import torch

from policies.guidance.storage import (
    SPEC,
    TENSORS,
    GuidanceSpec,
    Reading,
    load_guidance,
    save_guidance,
    sum_of_model,
)
from policies.storage.checkpoint import write_tensors
from policies.storage.folders import FolderError
from worldmodel.guidance import Fitted, Guidance, Head, Probes, Term

WISH = Term("tip.x", 0.08, 0.12), Term("speed", 2.0)


def made(model, folder, terms=WISH, **more):
    """A guidance of these terms with random probes, what it says, and a checkpoint of its model."""
    folder.mkdir()
    write_tensors(folder / "model.safetensors", model.state_dict())
    names, count = tuple(term.quantity for term in terms), len(terms)
    low, high = torch.full((count,), -0.25), torch.tensor([0.25, 1e6])[:count]
    weight = torch.randn(count, model.config.latent) * (high - low)[:, None]
    probes = Probes(names, weight, torch.randn(count) * high, torch.full((count,), 0.99), low, high)
    read = {name: Reading(0.99, float(low[i]), float(high[i]), "m") for i, name in enumerate(names)}
    spec = GuidanceSpec("be there", terms, 0.5, {"way": "want"}, sum_of_model(folder), read)
    return Guidance(terms, probes, **more), spec


@pytest.fixture
def model(toys):
    return toys.tiny_model(3, 2, latent=128)


def test_a_guidance_comes_back_as_it_was_and_is_small(model, tmp_path):
    guidance, spec = made(model, tmp_path / "checkpoint")
    save_guidance(tmp_path / "g", guidance, spec)
    loaded, said = load_guidance(tmp_path / "g", tmp_path / "checkpoint", model)
    assert said == spec and loaded.terms == WISH and loaded.fitted is None
    z = torch.randn(50, 128).unflatten(1, (-1, 4)).softmax(-1).flatten(1)
    span = guidance.probes.high - guidance.probes.low
    assert ((loaded.probes(z) - guidance.probes(z)).abs() / span).max() < 0.02
    assert torch.allclose(loaded.reward(z), guidance.reward(z), atol=0.02)
    assert json.loads((tmp_path / "g" / SPEC).read_text())["terms"][1] == ["speed", 2.0, None]
    assert sum((tmp_path / "g" / name).stat().st_size for name in (SPEC, TENSORS)) <= 1024


def test_what_was_fitted_and_a_reward_of_its_own_come_back_too(model, toys, tmp_path):
    other, z = toys.tiny_model(3, 2, seed=1, latent=128), torch.rand(9, 128)
    head = Head(torch.randn(128) / 30, 0.5, 0.9)
    guidance, spec = made(model, tmp_path / "checkpoint", (), fitted=Fitted(other.value, other.actor), head=head)
    save_guidance(tmp_path / "g", guidance, spec)
    loaded, _ = load_guidance(tmp_path / "g", tmp_path / "checkpoint", model)
    assert torch.equal(loaded.fitted.actor(z), other.actor(z))
    assert torch.equal(loaded.fitted.value(z, torch.zeros(9, 2)), other.value(z, torch.zeros(9, 2)))
    assert torch.allclose(loaded.reward(z), head(z), atol=0.01) and math.isclose(loaded.head.r2, 0.9, abs_tol=1e-3)
    assert not any(p.requires_grad for p in loaded.fitted.value.parameters())


def test_an_artefact_of_another_checkpoint_damaged_or_foreign_is_refused_in_one_line(model, toys, tmp_path):
    guidance, spec = made(model, tmp_path / "checkpoint")
    _, other = made(toys.tiny_model(3, 2, seed=1, latent=128), tmp_path / "other")
    folder = tmp_path / "g"
    for change, says in (
        (lambda: None, "made for another checkpoint"),
        (lambda: (folder / TENSORS).write_bytes(b"x"), "damaged"),
        ((folder / SPEC).unlink, "missing"),
        (lambda: folder.rename(tmp_path / "away"), "no such folder"),
    ):
        save_guidance(folder, guidance, spec)
        change()
        with pytest.raises(FolderError, match=says) as refused:
            load_guidance(folder, tmp_path / "other", model)
        assert "\n" not in str(refused.value) and str(folder) in str(refused.value)
    assert other.checkpoint != spec.checkpoint
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="no guidance"):
        save_guidance(tmp_path / "mine", guidance, spec)
