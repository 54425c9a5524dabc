"""Laws of the layers: simplices, ensembles that are their members, precisions that agree, exact statistics."""

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.encoder import Normaliser
from worldmodel.layers import Linear, NormedLinear, mlp, simnorm
from worldmodel.model import matmul_dtype


@pytest.mark.parametrize(("size", "group"), [(16, 4), (16, 16), (24, 8), (8, 1)])
def test_each_group_is_a_point_on_a_simplex(generator, size, group):
    y = simnorm(5 * torch.randn(2, 3, size, generator=generator), group)
    groups = y.unflatten(-1, (group, size // group))
    assert (y >= 0).all()
    assert torch.allclose(groups.sum(-2), torch.ones(2, 3, size // group))


def test_a_groups_entries_lie_a_stride_apart(generator):
    x = torch.randn(16, generator=generator)
    for i in range(16):
        nudged = x.clone()
        nudged[i] += 1
        changed = (simnorm(nudged, 4) != simnorm(x, 4)).nonzero().flatten()
        assert changed.tolist() == [j for j in range(16) if j % 4 == i % 4]


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


@pytest.mark.parametrize("heads", [0, 2])
def test_bf16_products_are_close_to_fp32(generator, heads):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exact, coarse = (mlp(16, 32, 8, heads, dtype) for dtype in (torch.float32, torch.bfloat16))
    coarse.load_state_dict(exact.state_dict())
    x = torch.randn(64, 16, generator=generator)
    one, other = exact(x), coarse(x)
    assert one.dtype == other.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.9995
    assert not torch.equal(one, other)


def test_parameters_and_their_gradients_stay_fp32(generator):
    net = mlp(4, 8, 2, 0, torch.bfloat16)
    net(torch.randn(3, 4, generator=generator)).sum().backward()
    assert {p.grad.dtype for p in net.parameters()} == {p.dtype for p in net.parameters()} == {torch.float32}


def test_a_normed_layer_forgets_the_scale_of_its_weights(generator):
    layer = NormedLinear(6, 8)
    x = torch.randn(5, 6, generator=generator)
    before = layer(x)
    with torch.no_grad():
        layer.weight *= 7
    assert torch.allclose(layer(x), before, atol=1e-4)


def test_zero_starts_at_zero(generator):
    assert not Linear(4, 3, zero=True)(torch.randn(2, 4, generator=generator)).any()
    assert not mlp(4, 8, 3, 2, torch.float32, zero=True)(torch.randn(2, 4, generator=generator)).any()


CPU, GPU, META = map(torch.device, ("cpu", "cuda", "meta"))


def test_precision_is_what_was_asked_for():
    assert {matmul_dtype("fp32", device) for device in (CPU, GPU)} == {torch.float32}
    assert {matmul_dtype("bf16", device) for device in (CPU, GPU)} == {torch.bfloat16}


@pytest.fixture
def native(monkeypatch):
    """Says of the CPU and of the GPU what they multiply."""

    def say(gpu=False, supported=True, avx512=True, amx=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu or including_emulation)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)

    return say


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("supported", [False, True])
@pytest.mark.parametrize(("avx512", "amx"), [(False, False), (True, False), (False, True)])
def test_precision_is_by_itself_bf16_where_the_device_has_that_natively(native, gpu, supported, avx512, amx):
    native(gpu, supported, avx512, amx)
    assert (matmul_dtype("auto", GPU) is torch.bfloat16) == gpu
    assert (matmul_dtype("auto", CPU) is torch.bfloat16) == (supported and (avx512 or amx))


def test_a_build_without_onednn_is_not_asked_for_it(native, monkeypatch):
    """As of Apple silicon, where `torch.ops.mkldnn` has no operators."""
    native(avx512=False, amx=False)
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert matmul_dtype("auto", CPU) is torch.float32


def test_a_model_that_moves_multiplies_as_its_new_device_does(native, toys):
    native()
    model = toys.tiny_model(precision="auto")
    for device, dtype in ((CPU, torch.bfloat16), (META, torch.float32)):
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


def test_shapes_are_checked_while_the_tests_run():
    with pytest.raises(jaxtyping.TypeCheckError, match="x"):
        Normaliser(3)(torch.zeros(3))
    with pytest.raises(jaxtyping.TypeCheckError, match="group"):
        simnorm(torch.zeros(8), "4")


def test_before_anything_was_seen_states_pass_unchanged(generator):
    x = torch.randn(4, 3, generator=generator)
    assert torch.equal(Normaliser(3)(x), x)


def test_a_command_leaves_products_in_fp32_as_exact_as_fp32_is():
    from configs.runs.assembly import prepare
    from configs.schema import MachineConfig

    threads = torch.get_num_threads()
    prepare(MachineConfig("cpu", threads, "false"))
    x, w = torch.rand(2, 3, 64, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = x @ w.mT
    assert (torch.bmm(x.float(), w.float().mT) - exact).abs().max() < 3e-6 * exact.abs().max()


def test_a_normaliser_can_be_told_what_it_would_have_seen(toys):
    seen, told = toys.tiny_model(), toys.tiny_model()
    states = torch.randn(50, 3, dtype=torch.float64) * 30 + 4
    seen.normaliser.__init__(3)
    seen.normaliser.observe(states)
    told.normaliser.take(states.mean(0), states.std(0, correction=0), 50)
    for name, value in seen.normaliser.state_dict().items():
        assert torch.allclose(told.normaliser.state_dict()[name], value), name
