"""Laws of the noise: how strong, how like itself later, and where it goes on."""

import numpy as np
import pytest
import torch

from policies.noise import COLOURS, Noise
from policies.settings import NOISES


@pytest.fixture
def long(generator):
    """Draws of a colour: 4096 of them, of 64 numbers each."""
    return lambda colour: torch.stack([noise.draw(64) for noise in [Noise(colour, generator)] for _ in range(4096)])


def test_every_noise_that_can_be_asked_for_is_there():
    assert set(COLOURS) == set(NOISES)


@pytest.mark.parametrize("colour", NOISES)
def test_each_draw_is_standard_normal(generator, colour):
    noise = Noise(colour, generator)
    for _ in range(20):
        drawn = noise.draw(50, 400)
        assert abs(float(drawn.mean())) < 0.03 and abs(float(drawn.std()) - 1) < 0.03
        assert abs(float((drawn.abs() < 1).float().mean()) - 0.6827) < 0.02


def spectrum(draws):
    """Mean power at each frequency, from cycles per draw."""
    power = np.abs(np.fft.rfft(draws.numpy(), axis=0)) ** 2
    return np.fft.rfftfreq(len(draws)), power.mean(1) / len(draws)


@pytest.mark.parametrize(("colour", "slope", "off"), [("white", 0.0, 0.03), ("pink", -1.0, 0.25)])
def test_its_power_falls_as_its_colour_says(long, colour, slope, off):
    frequency, power = spectrum(long(colour))
    band = (frequency > 1 / (2 * np.pi * 64)) & (frequency < 0.15)
    fitted = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]
    assert fitted == pytest.approx(slope, abs=off)


def test_pink_lasts_and_white_does_not(long):
    for colour, low, high in (("white", -0.02, 0.02), ("pink", 0.4, 0.8)):
        draws = long(colour)
        assert low < float((draws[:-1] * draws[1:]).mean()) < high


def test_another_shape_begins_anew(generator):
    noise = Noise("pink", generator)
    for _ in range(3):
        noise.draw(2, 3)
    assert noise.draw(4).shape == (4,)
    assert noise.parts.shape == (4, 4)


@pytest.mark.parametrize("colour", NOISES)
def test_each_row_goes_on_from_where_it_was_asked_last(generator, colour):
    """Whatever was drawn for its neighbours in between: its own draws are as alike as if it were alone."""
    noise, own = Noise(colour, generator), []
    noise.draw(2, 64)
    for t in range(4096):
        drawn = noise.draw(2, 64, due=torch.tensor([t % 4 == 0, True]))
        own += [drawn[0]] * (t % 4 == 0)
    draws, alone = torch.stack(own), float(noise.keep.mean())
    assert float((draws[:-1] * draws[1:]).mean()) == pytest.approx(alone, abs=0.06)


def test_a_noise_put_back_goes_on(generator):
    one, other = Noise("pink", generator), Noise("pink", torch.Generator())
    for _ in range(3):
        one.draw(2)
    other.parts = one.parts.clone()
    other.generator.set_state(generator.get_state())
    assert torch.equal(one.draw(2), other.draw(2))


def test_mixed_is_pink_in_one_episode_of_an_environment_and_white_in_the_next(generator):
    noise, lasts = Noise("mixed", generator), []
    for ended in ([False, False], [True, False], [False, True], [True, True]):
        noise.reset(torch.tensor(ended))
        draws = torch.stack([noise.draw(2, 500) for _ in range(30)])
        lasts.append(((draws[:-1] * draws[1:]).mean((0, 2)) > 0.3).tolist())
    assert lasts == [[True, False], [False, False], [False, True], [True, False]]
