"""Laws of many senses in one latent: what is missing does not matter, what is there does, in whatever order."""

import copy
import dataclasses
import json
import math

import pytest
import torch

from worldmodel.encoder import Encoder
from worldmodel.learner import Learner
from worldmodel.losses import METRICS, UNLIKE, Batch, encode_with_dropout, losses, variance_loss, world_losses
from worldmodel.observation import NO_MASKS, Observation
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY, check, stacked
from worldmodel.settings import LearningConfig, VisionConfig
from worldmodel.strict import build

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
SENSES = {STATE_KEY: (3,), FRONT: (16, 16, 3), WRIST: (24, 16, 3), LANGUAGE_KEY: (5,)}
VISION = VisionConfig(patch=8, width=8, frame_lags=(0, 1))


@pytest.fixture
def model(toys):
    """A model of two cameras, a state and words."""
    return toys.tiny_model(SENSES, vision=VISION)


def given(size=4, seed=0):
    """What every sense gives, cameras two frames each."""
    g = torch.Generator().manual_seed(seed)
    seen = {STATE_KEY: torch.randn(size, 3, generator=g), LANGUAGE_KEY: torch.randn(size, 5, generator=g)}
    for key in (FRONT, WRIST):
        seen[key] = torch.randint(0, 256, (size, 2, *SENSES[key]), dtype=torch.uint8, generator=g)
    return seen


def observed(model, values, present=NO_MASKS):
    """What the model encodes, of these values."""
    return model.preprocess(Observation.of(stacked(model.senses, 2), values, present))


@pytest.mark.parametrize("key", SENSES)
def test_a_sense_that_is_masked_is_one_that_has_no_key(model, key):
    seen, noise = given(), given(seed=1)[key]
    if key == LANGUAGE_KEY:
        noise *= torch.nan
    others = {name: value for name, value in seen.items() if name != key}
    without, whole = model.encode(observed(model, others)), model.encode(observed(model, seen))
    for value in (seen[key], noise):
        hidden = observed(model, seen | {key: value}, {key: torch.zeros(4, 1)})
        assert torch.equal(model.encode(hidden), without)
    assert not torch.equal(without, whole)
    assert torch.equal(model.encode(observed(model, seen, {key: torch.ones(4)})), whole)


def test_masks_are_each_ones_own(model):
    seen, here = given(), torch.tensor([True, False, True, False])
    mixed = model.encode(observed(model, seen, {FRONT: here}))
    without = model.encode(observed(model, {name: value for name, value in seen.items() if name != FRONT}))
    whole = model.encode(observed(model, seen))
    assert torch.allclose(mixed, torch.where(here.unsqueeze(1), whole, without), atol=1e-6)


@pytest.mark.parametrize(
    ("senses", "message"),
    [
        ({}, "at least one"),
        ({"observation.smell": (3,)}, "no such sense"),
        ({FRONT: (16, 16)}, "frames"),
        ({FRONT: (16, 16, 4)}, "frames"),
        ({STATE_KEY: (3, 3)}, "a vector"),
        ({STATE_KEY: (0,)}, "a vector"),
    ],
)
def test_a_sense_that_cannot_be_is_refused(senses, message, toys):
    with pytest.raises(ValueError, match=message):
        check(senses)
    with pytest.raises(ValueError, match=message):
        Encoder(senses, toys.tiny_config(), torch.float32)


def batch(model, size=6, steps=2):
    """Windows of everything."""
    g = torch.Generator().manual_seed(2)
    ones, token = torch.ones(steps, size), torch.rand(steps, size, 2, generator=g) * 2 - 1
    seen = observed(model, given((steps + 1) * size)).map(lambda x: x.unflatten(0, (steps + 1, size)))
    return Batch(seen, token, torch.randn(steps, size, generator=g), ones, ones, token[0], torch.zeros(size))


def test_learning_brings_the_latents_of_some_senses_to_that_of_all(model, generator):
    config = LearningConfig(batch_size=6, horizon=2, learning_rate=3e-3, encoder_lr_scale=1.0, modality_dropout=0.5)
    learner, data = Learner(model, 0.9, config), batch(model)
    at, first = METRICS.index("loss_agreement"), data.seen.map(lambda x: x[0])
    keep = torch.eye(4)[torch.arange(6) % 4]  # one sense alone

    def apart():
        with torch.no_grad():
            z, whole = encode_with_dropout(model, first, keep)
            return float((z - whole).square().mean())

    before = apart()
    for _ in range(60):
        learner.update(data, generator)
    assert apart() < 0.5 * before
    assert float(learner.metrics[at]) > 0
    assert model.encoder.absent.detach().abs().sum() > 0


def test_the_latent_of_all_is_not_moved_towards_those_of_some(model):
    seen = batch(model).seen.map(lambda x: x[0])
    z, whole = encode_with_dropout(model, seen, torch.zeros(6, 4))
    (z - whole).square().mean().backward()
    felt = [p.grad is not None and bool(p.grad.any()) for p in model.encoder.parts.parameters()]
    assert not any(felt)  # all was hidden, so only what stands in for it can move


def test_never_are_all_senses_hidden_that_show_what_happens(model):
    config = LearningConfig(batch_size=6, horizon=2, modality_dropout=0.9)
    learner, hidden = Learner(model, 0.9, config), 0
    for seed in range(300):
        keep = learner.noise(batch(model), torch.Generator().manual_seed(seed)).sense_mask
        shows = keep[:, [key != LANGUAGE_KEY for key in SENSES]]
        assert keep.shape == (6, 4) and bool((shows.sum(1) > 0).all())
        assert bool(keep[:, list(SENSES).index(LANGUAGE_KEY)].all())  # nor ever what says what is to be done
        hidden += int((shows == 0).sum())
    assert hidden / (300 * 6 * 3) == pytest.approx(0.9 - 0.9**3, abs=0.03)


def test_what_is_left_of_the_senses_is_never_hidden(model):
    learner, data = Learner(model, 0.9, LearningConfig(batch_size=6, horizon=2, modality_dropout=0.9)), batch(model)
    there = torch.eye(4)[torch.arange(6) % 4]  # one sense alone, where the windows begin
    masks = {key: there[:, i].expand(3, 6) > 0 for i, key in enumerate(SENSES)}
    data = dataclasses.replace(data, seen=Observation(data.seen.values, masks))
    for seed in range(20):
        keep = learner.noise(data, torch.Generator().manual_seed(seed)).sense_mask
        assert bool(((keep * there).sum(1) > 0).all())


def test_one_sense_is_never_hidden_and_draws_nothing(toys):
    model, draws = toys.tiny_model(), []
    for dropout in (0.0, 0.9):
        learner = Learner(model, 0.9, LearningConfig(batch_size=6, horizon=2, modality_dropout=dropout))
        tokens, ones = torch.zeros(2, 6, 2), torch.ones(2, 6)
        data = Batch(
            Observation.of(model.senses, {STATE_KEY: torch.zeros(3, 6, 3)}),
            tokens,
            ones,
            ones,
            ones,
            tokens[0],
            torch.zeros(6),
        )
        g = torch.Generator().manual_seed(0)
        draws.append((*vars(learner.noise(data, g)).values(), g.get_state()))
    assert all(torch.equal(a, b) for a, b in zip(*draws, strict=True))
    assert bool(draws[0][2].all())


def test_settings_of_vision_come_back_from_json(toys):
    config = toys.tiny_config(vision=VISION)
    assert build(type(config), json.loads(json.dumps(dataclasses.asdict(config))), whole=True) == config


@pytest.mark.parametrize("senses", [{STATE_KEY: (3,)}, SENSES], ids=["state", "cameras"])
def test_latents_are_told_apart_where_there_are_cameras(toys, senses):
    model, found = toys.tiny_model(senses, vision=VISION), []
    ready = observed(model, given(18)).map(lambda x: x.unflatten(0, (3, 6)))
    ones = torch.ones(2, 6)
    data = Batch(ready, torch.full((2, 6, 2), 0.5), ones, ones, ones, torch.zeros(6, 2), torch.zeros(6))
    for contrast in (0.0, 0.5):
        learner = Learner(model, 0.9, LearningConfig(batch_size=6, horizon=2, contrastive_coef=contrast))
        noise = learner.noise(data, torch.Generator().manual_seed(0))
        found_losses = losses(model, learner.target, data, noise, learner.scale, learner.discount, learner.config)
        total = found_losses.total(learner.config)
        names = [name for name, _ in model.named_parameters()]
        found.append(dict(zip(names, torch.autograd.grad(total, learner.parameters), strict=True)))
    felt = {name.split(".")[0] for name in names if not torch.equal(found[0][name], found[1][name])}
    assert felt == ({"encoder", "trunk", "next"} if model.sees else set())


@pytest.mark.parametrize("senses", [{STATE_KEY: (3,)}, SENSES], ids=["state", "cameras"])
def test_an_encoder_with_cameras_has_a_learning_rate_of_its_own(toys, senses):
    model = toys.tiny_model(senses, vision=VISION)
    ready = observed(model, given(18)).map(lambda x: x.unflatten(0, (3, 6)))
    ones = torch.ones(2, 6)
    data = Batch(ready, torch.full((2, 6, 2), 0.5), ones, ones, ones, torch.zeros(6, 2), torch.zeros(6))
    config = LearningConfig(batch_size=6, horizon=2, learning_rate=1e-3, encoder_lr_scale=0.25, vision_lr_scale=2.0)
    learner, before = Learner(model, 0.9, config), copy.deepcopy(model)
    learner.update(data, torch.Generator().manual_seed(0))
    moved = {name: 0.0 for name, _ in model.named_children()}
    for (name, new), old in zip(model.named_parameters(), before.parameters(), strict=True):
        part = name.split(".")[0]
        moved[part] = max(moved[part], float((new - old).detach().abs().max()))
    # Adam's first step is the learning rate, whatever the gradient's size.
    assert moved["encoder"] == pytest.approx(2e-3 if model.sees else 0.25e-3, rel=0.01)
    assert moved["trunk"] == pytest.approx(1e-3, rel=0.01)


def test_where_nothing_moves_no_moment_of_a_window_is_told_from_the_others(toys):
    model, steps = toys.tiny_model(SENSES, vision=VISION), 3
    still = observed(model, {key: x.repeat(steps + 1, *[1] * (x.dim() - 1)) for key, x in given(1).items()})
    whole = model.encode(still.map(lambda x: x[:1])).detach()
    ahead = model.encode(still).unflatten(0, (steps + 1, 1))[1:]
    ones = torch.ones(steps, 1)
    data = Batch(still, torch.full((steps, 1, 2), 0.5), ones, ones, ones, torch.zeros(1, 2), torch.zeros(1))
    config = LearningConfig(batch_size=1, horizon=steps, rho=1.0)
    contrast = world_losses(model, whole, whole, ahead, data, config)[1].detach()
    alone = UNLIKE * variance_loss(whole)  # one latent has no other to differ from
    assert float(contrast - alone) == pytest.approx(math.log(steps + 1), abs=1e-4)
