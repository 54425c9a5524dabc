"""Laws of probes that are fitted to what a search will read."""

import torch

from policies.guidance.compiling import Memory
from worldmodel.guidance_fit import Remembered
from worldmodel.probes import Probes, nearby
from worldmodel.settings import Term


def test_nearby_probes_read_best_where_the_guidance_is_fulfilled():
    """A curved quantity, seldom where it is to be, is read better there; one that the latent lacks stays as it was."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(3000, 3, generator=generator)
    z = (raw @ torch.randn(3, 64, generator=generator)).view(3000, 8, 8).softmax(1).flatten(1)
    values = torch.stack([raw[:, 0] + torch.sin(2 * raw[:, 1]), torch.randn(3000, generator=generator)], 1)
    episode = torch.arange(3000) // 10
    probes = Probes.fit(("curved", "noise"), z, values, episode, linear=True)
    terms = Term("curved", 2.0, 2.4), Term("noise", 0.0)
    sharper = nearby(terms, probes, z, values, episode, generator)
    there = terms[0].holds(values[:, 0]) & (values[:, 1] > 0)
    before, after = ((each(z) - values)[there].square().mean(0) for each in (probes, sharper))
    assert there.sum() > 20 and after[0] < 0.1 * before[0]
    assert torch.allclose(sharper(z)[:, 1], probes(z)[:, 1], atol=1e-4) and torch.equal(sharper.r2, probes.r2)


def test_foreseeing_probes_read_what_is_imagined_where_it_differs_from_what_is_encoded(toys):
    """The first number of a latent is imagined badly, the second well; nothing is paired beyond an episode's end."""
    draw, count = torch.Generator().manual_seed(0), torch.arange(900)
    place, off = torch.randn(900, generator=draw), torch.randn(2, 900, generator=draw)
    z, imagined = torch.stack([place, place + 0.1 * off[0]], 1), torch.stack([place + 3 * off[1], place], 1)
    token = torch.where((count % 30 < 28)[:, None], imagined.roll(-2, 0), 1e3)  # stands for what the model makes of it
    model = toys.tiny_model(token=toys.token_settings(2))
    model.next, model.transition_features = torch.nn.Identity(), lambda z, token: token
    remembered = Remembered(z, token, z, torch.ones(900))
    memory = Memory(remembered, place[:, None], ("place",), count // 30, count % 30)
    probes = memory.probes()
    ahead = memory.foreseeing(probes, model)
    before, after = ((each(imagined)[:, 0] - place).square().mean() for each in (probes, ahead))
    assert after < 0.01 * before and (ahead(z)[:, 0] - place).square().mean() < 0.05 and ahead.r2 is probes.r2
