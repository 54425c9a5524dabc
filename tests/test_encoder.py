"""Laws of encoding: layers, the normaliser, patches, and many senses in one latent, of which any may be missing."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.encoder import Encoder, Normaliser, PatchEncoder, patches, sense_dropout_mask, shift
from worldmodel.layers import Linear, NormedLinear, mlp, simnorm
from worldmodel.learner import Learner
from worldmodel.losses import encode_with_dropout
from worldmodel.model import WorldModel, matmul_dtype
from worldmodel.observation import NO_MASKS, Observation
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY, check, stacked
from worldmodel.settings import LearningConfig, VisionConfig

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
SENSES = {STATE_KEY: (3,), FRONT: (16, 16, 3), WRIST: (24, 16, 3), LANGUAGE_KEY: (5,)}
VISION = VisionConfig(patch=8, width=8, frame_lags=(0, 1))


@pytest.fixture
def model(toys):
    """A model of two cameras, a state and words."""
    return toys.tiny_model(SENSES, vision=VISION)


def moments(size=4, seed=0):
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
    seen, noise = moments(), moments(seed=1)[key]
    if key == LANGUAGE_KEY:
        noise *= torch.nan
    others = {name: value for name, value in seen.items() if name != key}
    without, whole = model.encode(observed(model, others)), model.encode(observed(model, seen))
    for value in (seen[key], noise):
        hidden = observed(model, seen | {key: value}, {key: torch.zeros(4, 1)})
        assert torch.equal(model.encode(hidden), without)
    assert not torch.equal(without, whole)
    assert torch.equal(model.encode(observed(model, seen, {key: torch.ones(4)})), whole)


def test_a_new_model_expects_nothing_and_a_blank_observation_shows_nothing(toys):
    model = WorldModel(SENSES, 2, toys.tiny_config(vision=VISION))
    blank, w = model.blank(5), torch.rand(5, 2)
    assert blank.presence.all() and not any(value.any() for value in blank.values.values())
    z = model.encode(model.preprocess(blank))
    assert z.shape == (5, 16) and model.value(z, w).shape == (2, 5, 11) and not model.value(z, w).any()
    outcome = model.outcome(model.transition_features(z, w))
    assert outcome.shape == (5, 12) and not outcome.any()
    saved = {name for name in model.state_dict() if not name.startswith("normaliser.")}
    assert saved == {name for name, _ in model.named_parameters()}  # so that older checkpoints fit


def test_only_states_that_are_there_are_counted(model, toys):
    before = float(model.normaliser.count)
    for here in ([True, False, True, True], [False] * 4):
        model.observe(Observation.of(stacked(SENSES, 2), moments(), {STATE_KEY: torch.tensor(here)}))
    assert float(model.normaliser.count) == before + 3
    blind = toys.tiny_model({FRONT: (16, 16, 3)}, vision=VISION)
    blind.observe(blind.blank(4))
    assert blind.state_size == 0 == blind.normaliser.count - 20


def test_masks_are_each_ones_own(model):
    seen, here = moments(), torch.tensor([True, False, True, False])
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
        ({STATE_KEY: (0,)}, "a vector"),
    ],
)
def test_a_sense_that_cannot_be_is_refused(senses, message, toys):
    with pytest.raises(ValueError, match=message):
        check(senses)
    with pytest.raises(ValueError, match=message):
        Encoder(senses, toys.tiny_config(), torch.float32)


def test_the_latent_of_all_is_not_moved_towards_those_of_some(toys, model):
    z, whole = encode_with_dropout(model, toys.batch(model).seen.map(lambda x: x[0]), torch.zeros(6, 4))
    (z - whole).square().mean().backward()
    felt = [p.grad is not None and bool(p.grad.any()) for p in model.encoder.parts.parameters()]
    assert not any(felt)  # all was hidden, so only what stands in for it can move


@pytest.mark.parametrize("alone", [False, True])
def test_never_are_all_senses_hidden_that_show_the_scene_nor_ever_the_words(generator, alone):
    shows, size = torch.tensor([key != LANGUAGE_KEY for key in SENSES]).float(), 6000
    there = torch.eye(4)[torch.arange(size) % 3] if alone else torch.ones(size, 4)
    keep = sense_dropout_mask(there, shows, 0.9, generator)
    assert keep[:, -1].all() and ((keep * there * shows).sum(1) > 0).all()
    if not alone:
        assert float((keep[:, :3] == 0).float().mean()) == pytest.approx(0.9 - 0.9**3, abs=0.02)


def test_with_cameras_latents_are_contrasted_and_the_encoder_has_a_learning_rate_of_its_own(toys):
    """Adam's first step is the learning rate, whatever the gradient's size."""
    scales = {"learning_rate": 1e-3, "encoder_lr_scale": 0.25, "vision_lr_scale": 2.0}
    for senses, encoders in (({STATE_KEY: (3,)}, 0.25e-3), (SENSES, 2e-3)):
        steps = []
        for contrast in (0.0, 0.5):
            model = toys.tiny_model(senses, vision=VISION)
            learner = Learner(model, 0.9, LearningConfig(batch_size=6, contrastive_coef=contrast, **scales))
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            learner.update(toys.batch(model), torch.Generator().manual_seed(0))
            steps.append({name: (p.detach() - before[name]).abs() for name, p in model.named_parameters()})
        felt = {name.split(".")[0] for name in steps[0] if not torch.equal(steps[0][name], steps[1][name])}
        assert felt == ({"encoder", "trunk", "next"} if model.sees else set())
        for part, rate in (("encoder.", encoders), ("trunk.", 1e-3)):
            largest = max(float(step.max()) for name, step in steps[1].items() if name.startswith(part))
            assert largest == pytest.approx(rate, rel=0.01)


# Layers and statistics.


@pytest.mark.parametrize(("size", "group"), [(16, 4), (16, 16), (8, 1)])
def test_each_group_is_a_point_on_a_simplex(generator, size, group):
    y = simnorm(5 * torch.randn(2, 3, size, generator=generator), group)
    groups = y.unflatten(-1, (group, size // group))
    assert (y >= 0).all()
    assert torch.allclose(groups.sum(-2), torch.ones(2, 3, size // group))


@pytest.mark.parametrize("lead", [(), (3,)])
def test_a_head_is_the_net_with_its_weights(generator, lead):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ensemble = mlp(5, 8, 3, 3, torch.float32)
    for p in ensemble.parameters():
        torch.nn.init.normal_(p, generator=generator)
    x = torch.randn(*lead, 7, 5, generator=generator)
    together = ensemble(x)
    for h in range(3):
        single = mlp(5, 8, 3, 0, torch.float32)
        own = {name: p[h].reshape(single.get_parameter(name).shape) for name, p in ensemble.named_parameters()}
        single.load_state_dict(own)
        assert torch.allclose(together[h], single(x[h] if lead else x), atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=0.1)


def test_bf16_products_are_close_to_fp32_and_parameters_and_gradients_stay_so(generator):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exact, coarse = (mlp(16, 32, 8, 2, dtype) for dtype in (torch.float32, torch.bfloat16))
    coarse.load_state_dict(exact.state_dict())
    x = torch.randn(64, 16, generator=generator)
    one, other = exact(x), coarse(x)
    other.sum().backward()
    assert {p.grad.dtype for p in coarse.parameters()} == {p.dtype for p in coarse.parameters()} == {other.dtype}
    assert torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.9995
    assert not torch.equal(one, other)


def test_a_normed_layer_forgets_the_scale_of_its_weights_and_zero_starts_at_zero(generator):
    layer, x = NormedLinear(6, 8), torch.randn(5, 6, generator=generator)
    before = layer(x)
    layer.weight.data *= 7
    assert torch.allclose(layer(x), before, atol=1e-4)
    assert not mlp(6, 8, 3, 2, torch.float32, zero=True)(x).any()


def test_precision_is_as_set_and_auto_follows_the_device_of_the_model(monkeypatch, toys):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for supported, (avx512, amx) in itertools.product((False, True), ((0, 0), (1, 0), (0, 1))):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda supported=supported: supported)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=avx512: bool(has))
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=amx: bool(has))
        assert (matmul_dtype("auto", cpu) is torch.bfloat16) == (supported and bool(avx512 or amx))
    for device in (cpu, gpu):
        assert matmul_dtype("fp32", device) is torch.float32 and matmul_dtype("bf16", device) is torch.bfloat16
    model = toys.tiny_model(precision="auto")  # on a CPU that multiplies in bf16, as the last one above
    for device, dtype in (("cpu", torch.bfloat16), ("meta", torch.float32)):
        layers = [part for part in model.to(device).modules() if isinstance(part, Linear)]
        assert {layer.dtype for layer in layers} == {dtype}


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.floats(-1e3, 1e3), st.integers(0, 99))
def test_statistics_do_not_depend_on_how_states_arrive(sizes, offset, seed):
    x = offset + torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(seed))
    normaliser = Normaliser(3)
    for part in x.split(sizes):
        normaliser.observe(part)
    exact = x.double()
    assert torch.allclose(normaliser.mean.double(), exact.mean(0), rtol=1e-6, atol=1e-6)
    variance = exact.var(0, correction=0)
    assert torch.allclose(normaliser.scale.double(), (variance + normaliser.FLOOR**2).rsqrt(), rtol=1e-5)


def test_a_normalised_state_is_standard_bounded_and_calm(generator):
    x = torch.randn(4000, 3, generator=generator) * torch.tensor([100.0, 1.0, 0.0]) + 50
    normaliser = Normaliser(3)
    normaliser.observe(x)
    y = normaliser(x)
    assert torch.allclose(y.mean(0), torch.zeros(3), atol=1e-3)
    assert torch.allclose(y.std(0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-2)
    assert normaliser(torch.full((1, 3), 1e9)).max() == normaliser.CLIP
    still = normaliser(x[:1] + 1e-3)[0, 2]  # a sensor that never moved: small changes stay small
    assert still.abs() < 0.2


def test_a_command_leaves_products_in_fp32_as_exact_as_fp32_is():
    from configs.runs.loading import prepare
    from configs.schema import MachineConfig

    threads = torch.get_num_threads()
    prepare(MachineConfig("cpu", threads, "false"))
    x, w = torch.rand(2, 3, 64, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = x @ w.mT
    assert (torch.bmm(x.float(), w.float().mT) - exact).abs().max() < 3e-6 * exact.abs().max()


def test_a_normaliser_can_take_the_statistics_of_states_that_it_did_not_see():
    seen, taken, states = Normaliser(3), Normaliser(3), torch.randn(50, 3, dtype=torch.float64) * 30 + 4
    assert torch.equal(seen(states[:4].float()), states[:4].float().clamp(-10, 10))  # nothing was seen yet
    seen.observe(states)
    taken.take(states.mean(0), states.std(0, correction=0), 50)
    for name, value in seen.state_dict().items():
        assert torch.allclose(taken.state_dict()[name], value), name


# Vision.


def frames(*shape, seed=0):
    """Random bytes."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(1, 8))
@settings(max_examples=40)
def test_patches_are_the_squares_written_out(stack, height, width, side):
    seen = frames(2, stack, height, width, 3)
    cut = patches(seen, side)
    rows, columns = -(-height // side), -(-width // side)
    assert cut.shape == (2, rows, columns, stack * side * side * 3)
    squares = cut.view(2, rows, columns, stack, side, side, 3)
    for y in range(rows * side):
        for x in range(columns * side):
            pixel = seen[:, :, min(y, height - 1), min(x, width - 1)]
            assert torch.equal(squares[:, y // side, x // side, :, y % side, x % side], pixel)


@pytest.mark.parametrize("pixels", [1, 4])
def test_a_shift_is_a_crop_of_the_frame_with_its_edge_repeated(pixels):
    seen = frames(40, 2, 12, 10, 3)
    moved = shift(seen, pixels, torch.Generator().manual_seed(3))
    down, right = torch.randint(2 * pixels + 1, (2, 40), generator=torch.Generator().manual_seed(3))
    flat = seen.flatten(0, 1).permute(0, 3, 1, 2).float()
    wide = F.pad(flat, (pixels,) * 4, mode="replicate").unflatten(0, (40, 2))
    for i in range(40):
        crop = wide[i, :, :, down[i] : down[i] + 12, right[i] : right[i] + 10].permute(0, 2, 3, 1)
        assert torch.equal(moved[i].float(), crop)
    assert len(set(zip(down.tolist(), right.tolist(), strict=True))) > 5
    assert shift(seen, 0, torch.Generator()) is seen


@pytest.mark.parametrize(("height", "width"), [(33, 70), (8, 8)])
def test_the_encoder_reads_every_pixel_of_every_frame(height, width):
    config = VisionConfig(patch=8, width=16, frame_lags=(0, 1))
    torch.manual_seed(0)
    encoder = PatchEncoder(height, width, config, 24, torch.float32)
    seen = frames(1, 2, height, width, 3)
    out = encoder(patches(seen, 8))
    assert out.shape == (1, 24)
    for t, y, x in ((0, 0, 0), (1, height - 1, width - 1), (0, height // 2, width - 1), (1, height - 1, 0)):
        other = seen.clone()
        other[0, t, y, x] = 255 - other[0, t, y, x]
        assert not torch.equal(encoder(patches(other, 8)), out), (t, y, x)


def test_the_encoder_tells_motion_from_rest_whatever_the_light(generator):
    """Between two frames alike it sees nothing, and so the same for any number of frames of a scene at rest."""
    torch.manual_seed(0)
    configs = [VisionConfig(width=8, frame_lags=lags) for lags in ((0, 1), (0, 1, 4))]
    two, three = (PatchEncoder(16, 16, config, 12, torch.float32) for config in configs)
    with torch.no_grad():
        three.stem.weight[:, : 2 * 192] = two.stem.weight
        for one, other in zip([*two.merges, two.whole], [*three.merges, three.whole], strict=True):
            other.load_state_dict(one.state_dict())
    still = frames(5, 1, 16, 16, 3)
    rest = [encoder(patches(still.expand(-1, n, -1, -1, -1), 8)) for encoder, n in ((two, 2), (three, 3))]
    assert torch.allclose(*rest, atol=1e-6)
    moved = torch.cat([still, still.roll(1, 3)], 1)
    assert not torch.allclose(two(patches(moved, 8)), rest[0], atol=1e-3)


def test_sizes_that_cannot_be_seen_are_refused():
    with pytest.raises(ValueError, match=r"^model\.vision\.patch=17: at most 16, the frames' side$"):
        PatchEncoder(64, 16, VisionConfig(patch=17), 8, torch.float32)
    for lags in ((), (1, 2), (2, 0), (0, 0), (0, -1), (0, 40)):
        with pytest.raises(ValueError, match=r"^model\.vision\.frame_lags="):
            VisionConfig(frame_lags=lags)
