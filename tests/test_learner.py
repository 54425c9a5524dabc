"""Laws of the update: one flat buffer, Adam to the letter, an averaged target, and a fault that changes nothing."""

import copy
import dataclasses

import pytest
import torch

from worldmodel.learner import UPDATE_METRICS, Learner, LearningFault, flatten, segment, width
from worldmodel.losses import losses
from worldmodel.senses import STATE_KEY
from worldmodel.settings import LearningConfig

CONFIG = LearningConfig(batch_size=6)


@pytest.fixture
def batch(toys, model):
    """Makes batches by a seed."""
    return lambda seed=0: toys.batch(model, seed=seed)


def everything(learner):
    """A copy of all that an update may change."""
    kept = {"average": learner.average} | learner.state_dict()
    return {name: t.clone() for name, t in kept.items()}


def equal(one, other):
    """Whether two such copies are the same to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_flat_buffer_is_the_parameters_themselves(model):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    flat = flatten(model)
    assert flat.numel() == sum(p.numel() for p in before.values()) and not flat.requires_grad
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
    flat += 1
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name] + 1)
    part = segment(model, "value.")
    flat[part] = 5
    for name, p in model.named_parameters():
        assert bool((p == 5).all()) == name.startswith("value.")


@pytest.mark.parametrize(("clip", "spread"), [(1e-2, 0.1), (1e3, 9)])
def test_updates_are_adams_with_each_groups_norm_clipped(model, batch, clip, spread):
    """Step by step against torch.optim.Adam, clip_grad_norm_ and averages written out, of the values' width, too."""
    with torch.no_grad():
        model.value.net[-1].bias[:] = spread / 3 * torch.linspace(-1, 1, 11)
        model.value.net[-1].weight *= spread  # so that the values are over less than 1, or more
    config = dataclasses.replace(CONFIG, grad_clip_norm=clip, learning_rate=1e-2, encoder_lr_scale=0.5, tau=0.1)
    copied, target = copy.deepcopy(model), copy.deepcopy(model.value)
    learner = Learner(model, 0.9, config)
    assert not any(p.requires_grad for p in learner.target.parameters())
    encoder = list(copied.encoder.parameters())
    actor = list(copied.actor.parameters())
    world = [p for name, p in copied.named_parameters() if not name.startswith("actor.")]
    others = [p for p in copied.parameters() if all(p is not e for e in encoder)]
    adam = torch.optim.Adam([{"params": encoder, "lr": 0.5e-2}, {"params": others, "lr": 1e-2}])
    scale = torch.ones(())
    for n in range(5):
        noise = learner.noise(batch(n), torch.Generator().manual_seed(n))
        found = losses(copied, target, batch(n), noise, learner.scale.clone(), learner.discount, config)
        adam.zero_grad()
        found.total(config).backward()
        for group in (world, actor):
            torch.nn.utils.clip_grad_norm_(group, clip)
        adam.step()
        with torch.no_grad():
            for mean, p in zip(target.parameters(), copied.value.parameters(), strict=True):
                mean.copy_(0.9 * mean + 0.1 * p)
        learner.learn(batch(n), noise)
        expected = torch.cat([p.detach().flatten() for p in copied.parameters()])
        assert torch.allclose(learner.flat, expected, atol=1e-5)
        average = torch.cat([p.detach().flatten() for p in target.parameters()])
        assert torch.allclose(learner.target_flat, average, atol=1e-5)
        wide = torch.quantile(found.values, 0.95) - torch.quantile(found.values, 0.05)
        scale = 0.99 * scale + 0.01 * wide.clamp(min=1)
        torch.testing.assert_close(learner.scale, scale)
    assert learner.updates == 5 and (scale > 1.01) == (spread > 1) == (wide > 1)


def test_a_learner_restored_goes_on_as_the_one_saved(toys, batch):
    one, other = (Learner(toys.tiny_model(seed=seed), 0.9, CONFIG) for seed in (0, 1))
    for n in range(3):
        one.update(batch(n), torch.Generator().manual_seed(n))
    other.load_state_dict(one.state_dict())
    other.acting.load_state_dict(one.acting.state_dict())
    for learner in (one, other):
        learner.update(batch(3), torch.Generator().manual_seed(3))
    assert equal(everything(one), everything(other))


def test_senses_are_hidden_where_there_are_several(toys, generator):
    for senses in ({STATE_KEY: (3,)}, {STATE_KEY: (3,), "observation.images.front": (16, 16, 3)}):
        learner = Learner(toys.tiny_model(senses), 0.9, CONFIG)
        data = toys.batch(learner.model, 2000)
        data.seen.present[STATE_KEY][:, 1000:] = len(senses) == 1
        keep = learner.noise(data, generator.manual_seed(0)).sense_mask
        assert keep[1000:, -1].all()  # the only one that is there
        assert float((keep[:1000] == 0).float().mean()) == pytest.approx((0.3 - 0.3**2) * (len(senses) > 1), abs=0.03)
        plain = torch.Generator().manual_seed(0)
        torch.randn(2, 2000, 2, generator=plain)
        assert torch.equal(generator.get_state(), plain.get_state()) == (len(senses) == 1)  # no draw that is not needed


def test_parameters_that_do_not_stand_together_are_no_segment():
    parts = torch.nn.ModuleDict({name: torch.nn.Linear(2, 3) for name in ("a1", "a2", "b", "a3")})
    assert (segment(parts, "a1"), segment(parts, "b")) == (slice(0, 9), slice(18, 27))
    for prefix in ("a", "c"):
        with pytest.raises(ValueError, match=rf"^parameters named {prefix}\* do not stand together$"):
            segment(parts, prefix)


@pytest.mark.parametrize("field", ["state", "token", "reward"])
def test_a_batch_that_is_not_finite_leaves_everything_untouched(model, batch, generator, field):
    learner = Learner(model, 0.9, CONFIG)
    metrics = dict(zip(UPDATE_METRICS, learner.update(batch(), generator).tolist(), strict=True))
    assert metrics["gradient_norm"] > 0 and metrics["return_scale"] == pytest.approx(float(learner.scale))
    before = everything(learner)
    spoiled = (batch().seen.values[STATE_KEY] if field == "state" else getattr(batch(), field)).clone()
    spoiled[0, 3] = torch.nan
    change = {"seen": batch().seen.with_values({STATE_KEY: spoiled})} if field == "state" else {field: spoiled}
    with pytest.raises(LearningFault, match=r"^update 1: loss_\w+.* not finite$"):
        learner.update(dataclasses.replace(batch(), **change), generator)
    assert equal(everything(learner), before)
    learner.update(batch(), generator)  # and it can go on


@pytest.mark.parametrize("averaging", [1, 4, 100])
def test_the_acting_weights_are_the_mean_of_the_newest(toys, batch, averaging):
    learner = Learner(toys.tiny_model(), 0.9, dataclasses.replace(CONFIG, ema_updates=averaging))
    mean = torch.zeros_like(learner.flat)
    for n in range(1, 9):
        learner.update(batch(n), torch.Generator().manual_seed(n))
        share = 1 / min(n, averaging)  # all of them alike at first, then a fading memory
        mean = (1 - share) * mean + share * learner.flat
    assert torch.allclose(learner.average, mean, atol=1e-6)
    assert torch.equal(learner.average, learner.flat) == (averaging == 1)
    assert torch.equal(torch.cat([p.flatten() for p in learner.acting.parameters()]), learner.average)


@pytest.mark.parametrize("count", [1, 2, 7, 128])
def test_returns_are_as_wide_as_their_quantiles_are_apart(count):
    values = torch.randn(count, generator=torch.Generator().manual_seed(count))
    low, high = torch.quantile(values, torch.tensor([0.05, 0.95]))
    torch.testing.assert_close(width(values), high - low)
