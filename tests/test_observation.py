"""Laws of the record of what is observed: complete, checked once, and with nothing under a mask."""

import pytest
import torch

from worldmodel.observation import Observation
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY

FRONT = "observation.images.front"
SENSES = {STATE_KEY: (3,), FRONT: (4, 5, 3), LANGUAGE_KEY: (2,)}
FRAMES = torch.full((2, 4, 5, 3), 9, dtype=torch.uint8)
NAN = torch.tensor([[1.0, torch.nan, 0.0], [1.0, 2.0, 3.0]])


def whole(**changes):
    """The values of every sense of two environments."""
    return {STATE_KEY: torch.ones(2, 3), FRONT: FRAMES, LANGUAGE_KEY: torch.ones(2, 2)} | changes


def test_every_sense_is_in_it_whatever_was_given_in_the_models_order():
    for values in (whole(), dict(reversed(whole().items())), {FRONT: FRAMES}, {STATE_KEY: torch.ones(2, 3)}):
        seen = Observation.of(SENSES, values)
        assert list(seen.values) == list(seen.present) == list(SENSES)
        assert seen.presence.tolist() == [[float(key in values) for key in SENSES]] * 2
        assert {key: tuple(value.shape[1:]) for key, value in seen.values.items()} == SENSES


def test_nothing_leaks_from_under_a_mask():
    masks = {STATE_KEY: torch.tensor([False, True]), FRONT: torch.tensor([[0.0], [1.0]])}
    seen = Observation.of(SENSES, whole(**{STATE_KEY: NAN}), masks)
    assert seen.values[STATE_KEY].tolist() == [[0, 0, 0], [1, 2, 3]]
    assert not seen.values[FRONT][0].any() and seen.values[FRONT][1].all()
    assert seen.presence.tolist() == [[0, 0, 1], [1, 1, 1]]


def test_a_single_sense_keeps_its_value_whatever_its_mask():
    seen = Observation.of({STATE_KEY: (3,)}, {STATE_KEY: torch.ones(2, 3)}, {STATE_KEY: torch.tensor([0, 1])})
    assert seen.presence.tolist() == [[0], [1]] and seen.values[STATE_KEY].all()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, r"none of the senses observation\.state, observation\.images\.front is there; there is nothing"),
        ({LANGUAGE_KEY: torch.ones(2, 2)}, "none of the senses .* there is observation.language"),
        ({STATE_KEY: [1.0, 2.0, 3.0]}, r"observation\.state: a list; a tensor of shape \(B, 3\) is needed"),
        ({STATE_KEY: torch.zeros(3)}, r"observation\.state: shape \(3,\); \(B, 3\) is needed"),
        ({STATE_KEY: torch.zeros(2, 4)}, r"observation\.state: shape \(2, 4\); \(B, 3\) is needed"),
        ({FRONT: torch.zeros(2, 3, 4, 5)}, r"observation\.images\.front: shape \(2, 3, 4, 5\)"),
        ({FRONT: FRAMES.float()}, r"observation\.images\.front: frames of torch\.float32"),
        ({STATE_KEY: torch.zeros(3, 3), FRONT: FRAMES}, "observation.images.front: of 2 environments, .* of 3"),
        ({STATE_KEY: NAN}, r"observation\.state\[1\] is nan"),
        ({STATE_KEY: torch.full((1, 3), torch.inf)}, r"observation\.state\[0\] is inf"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_that_names_it(values, told):
    with pytest.raises(ValueError, match=f"^{told}") as caught:
        Observation.of(SENSES, values)
    assert "\n" not in str(caught.value)


def test_a_function_of_the_leading_axes_acts_on_values_and_masks_alike():
    seen = Observation.of(SENSES, whole(), {STATE_KEY: torch.tensor([True, False])})
    second = seen.map(lambda x: x[1:])
    assert (len(seen), len(second)) == (2, 1)
    assert torch.equal(second.values[FRONT], FRAMES[1:]) and second.presence.tolist() == [[0, 1, 1]]
