"""Laws of learning from recordings: what was not recorded does not count, and reward and value are left alone."""

import dataclasses

import pytest
import torch

from worldmodel.imitation import ImitationBatch, imitation_loss
from worldmodel.observation import Observation
from worldmodel.senses import STATE_KEY


@pytest.fixture
def windows():
    """Three tokens for four starts, the second of which ends after one token, the third within its second one."""
    draw = torch.Generator().manual_seed(0)
    whole, followed = torch.ones(3, 4), torch.ones(3, 4)
    whole[1:, 1], followed[1:, 1] = 0, 0
    whole[2, 2], followed[1:, 2] = 0, 0
    state = torch.randn(4, 4, 3, generator=draw)
    seen, token = Observation.of({STATE_KEY: (3,)}, {STATE_KEY: state}), torch.rand(3, 4, 2, generator=draw) * 2 - 1
    return ImitationBatch(seen, torch.ones(4, 1), token, whole, followed)


def test_what_was_not_recorded_does_not_count(model, windows):
    wanted, _ = imitation_loss(model, windows, 20.0)
    state, token = windows.seen.values[STATE_KEY].clone(), windows.token.clone()
    state[2:, 1], token[1:, 1] = 7, -1
    state[3, 2], token[2, 2] = 7, -1
    assert torch.equal(
        imitation_loss(
            model, dataclasses.replace(windows, seen=windows.seen.with_values({STATE_KEY: state}), token=token), 20.0
        )[0],
        wanted,
    )
    token[0, 1] = 0
    assert not torch.equal(imitation_loss(model, dataclasses.replace(windows, token=token), 20.0)[0], wanted)


def test_nothing_is_learned_of_reward_and_value(model, windows):
    imitation_loss(model, windows, 20.0)[0].backward()
    touched = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"encoder", "trunk", "next", "actor"}


def test_it_comes_to_do_what_was_done(model, windows):
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    before = imitation_loss(model, windows, 1.0)[1]
    for _ in range(300):
        optimiser.zero_grad()
        imitation_loss(model, windows, 1.0)[0].backward()
        optimiser.step()
    after = imitation_loss(model, windows, 1.0)[1]
    assert all(after[name] < 0.2 * before[name] for name in before)
    mode, _ = model.greedy_token(model.encode(windows.seen.map(lambda x: x[0])))
    assert (mode - windows.token[0]).abs().mean() < 0.2


def test_without_a_whole_token_there_is_nothing_to_learn(model, windows):
    nothing = dataclasses.replace(windows, whole=torch.zeros(3, 4), followed=torch.zeros(3, 4))
    assert imitation_loss(model, nothing, 20.0)[0].item() == 0


def test_a_normaliser_can_be_told_what_it_would_have_seen(toys):
    seen, told = toys.tiny_model(), toys.tiny_model()
    states = torch.randn(50, 3, dtype=torch.float64) * 30 + 4
    seen.normaliser.__init__(3)
    seen.normaliser.observe(states)
    told.normaliser.take(states.mean(0), states.std(0, correction=0), 50)
    for name, value in seen.normaliser.state_dict().items():
        assert torch.allclose(told.normaliser.state_dict()[name], value), name
