"""Laws of how poses in a state look from the first of them."""

import math

import pytest
import torch

from worldmodel.encoder import TURNS, Normaliser, rotation, seen_from
from worldmodel.errors import UserError
from worldmodel.settings import ModelConfig


def _about_the_vertical(angle: float, poses):
    """Return poses (N, 7) of a scene turned about the origin."""
    half, turn = (
        torch.tensor(angle / 2),
        rotation(torch.tensor([math.cos(angle / 2), 0, 0, math.sin(angle / 2)]).double()),
    )
    w, x, y, z = poses[:, 3:].T
    c, s = half.cos(), half.sin()
    turned = [c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w]
    return torch.cat([poses[:, :3] @ turn.T, torch.stack(turned, 1)], 1)


def test_what_a_pose_sees_turns_with_the_scene_and_a_thing_of_four_sides_looks_the_same_a_quarter_further():
    generator = torch.Generator().manual_seed(0)
    hand, thing = torch.randn(2, 9, 7, generator=generator).double()
    hand[:, 3:] /= hand[:, 3:].norm(dim=1, keepdim=True)
    thing[:, 3:6], thing[:, 4:6] = torch.tensor([0.8, 0, 0]), 0.0
    thing[:, 6] = 0.6
    seen = seen_from(hand, thing)
    moved = seen_from(_about_the_vertical(1.1, hand), _about_the_vertical(1.1, thing))
    assert torch.allclose(seen, moved, atol=1e-6)
    assert torch.allclose(seen_from(hand, torch.cat([thing[:, :3], -thing[:, 3:]], 1)), seen)  # the same orientation
    upright = torch.cat([hand[:, :3], torch.tensor([0.0, 1, 0, 0]).expand(9, 4)], 1)  # looking down
    further = torch.cat([thing[:, :3], _about_the_vertical(math.pi / 2, thing)[:, 3:]], 1)
    before, after = (seen_from(upright, each)[:, 6:].unflatten(1, (2, 2, len(TURNS))) for each in (thing, further))
    assert torch.allclose(before[..., TURNS.index(4)], after[..., TURNS.index(4)], atol=1e-6)
    assert (before[..., TURNS.index(1)] - after[..., TURNS.index(1)]).abs().amax((1, 2)).min() > 0.5
    assert torch.allclose((upright[:, :3] - thing[:, :3]).norm(dim=1), seen_from(upright, thing)[:, :3].norm(dim=1))
    close = seen_from(thing, thing + torch.tensor([0.003, 0, 0, 0, 0, 0, 0]))  # three of the millimetres a grasp has
    assert torch.allclose(close[:, 3:6].norm(dim=1), torch.tensor(0.3).double(), atol=0.02)


def test_a_model_gets_what_its_states_poses_see_and_refuses_poses_that_are_not_there():
    states = torch.randn(30, 16)
    normaliser = Normaliser(16, (9, 2))
    normaliser.observe(states)
    seen = seen_from(states[:, 9:16], states[:, 2:9])
    assert torch.allclose(normaliser.extended(states), torch.cat([states, seen], 1))
    assert normaliser(states).shape == (30, 16 + seen.shape[1])
    assert normaliser(states).mean(0).abs().max() < 1e-4
    with pytest.raises(UserError, match=r"^model.poses=\[0, 10\]: the state has 16 numbers, a pose seven$"):
        Normaliser(16, (0, 10))
    for wrong in ((3,), (0, -1)):
        with pytest.raises(UserError, match=r"^model.poses=.*: where in the state two or more poses begin, or none$"):
            ModelConfig(poses=wrong)
