"""Laws of seeing: patches lose nothing, a shift moves and repeats the edge, every pixel is read at any size."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.encoder import PatchEncoder, patches, shift
from worldmodel.flops import gflop
from worldmodel.settings import VisionConfig


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


def test_no_shift_is_no_shift(generator):
    seen = frames(3, 1, 8, 8, 3)
    before = generator.get_state()
    assert shift(seen, 0, generator) is seen
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 64), (33, 70), (8, 8)])
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


@pytest.mark.parametrize("lags", [(), (1, 2), (2, 0), (0, 0), (0, -1), (0, 40)])
def test_lags_without_now_are_refused(lags):
    with pytest.raises(ValueError, match=r"^model\.vision\.frame_lags="):
        VisionConfig(frame_lags=lags)


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


def test_patches_larger_than_the_frame_are_refused():
    with pytest.raises(ValueError, match=r"^model\.vision\.patch=17: at most 16, the frames' side$"):
        PatchEncoder(64, 16, VisionConfig(patch=17), 8, torch.float32)


def test_the_encoder_costs_what_is_said_of_it():
    config = VisionConfig()
    encoder = PatchEncoder(64, 64, config, 256, torch.float32)
    seen = patches(frames(1, len(config.frame_lags), 64, 64, 3), config.patch)
    assert gflop(lambda: encoder(seen)) == pytest.approx(0.0042, rel=0.01)
