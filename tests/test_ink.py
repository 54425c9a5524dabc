"""Laws of the plan that is drawn beside a film."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from configs.runs.film import HEIGHT, Reel, motions, sentence
from policies.agent import Decision
from policies.glyphs.glyph import glyph
from policies.glyphs.ink import picture
from policies.tokens.curves import Curve
from worldmodel.settings import TokenConfig


@pytest.mark.parametrize(("length", "knots", "degree"), [(1, 1, 0), (4, 2, 1), (8, 5, 3)])
def test_a_plan_of_the_planner_is_a_sentence(length, knots, degree, generator):
    known = Curve.of_token(TokenConfig(length, knots, degree), 3)
    tokens, spread = (torch.rand(5, 2, known.size, generator=generator) for _ in range(2))
    moves = sentence(SimpleNamespace(tokens=tokens, std=spread), known, 0.02, of=1)
    assert len(moves) == 5
    for move, token, deviation in zip(moves, tokens[:, 1], spread[:, 1], strict=True):
        assert move.seconds == pytest.approx(0.02 * length)
        assert np.allclose(move.points, token.view(knots, 3)) and np.allclose(move.std, deviation.view(knots, 3))


BLIND = SimpleNamespace(senses={"observation.state": (3,)})


def decided(tokens, by_policy=False):
    """What an agent of one environment decided by these tokens (T, 1, P)."""
    return Decision(tokens, torch.zeros(1, 1, 2), torch.ones(1, dtype=torch.long), torch.tensor([by_policy]))


def test_a_film_says_where_the_policy_acts_and_shows_its_token_alone(generator):
    known, tokens = Curve.of_token(TokenConfig(), 2), torch.rand(3, 1, 2, generator=generator)
    plan = SimpleNamespace(tokens=tokens, std=torch.ones(3, 1, 2))
    agent = SimpleNamespace(plan=plan, curve=known, planner=None, model=BLIND, planned=[True])
    reel, scene = Reel(agent, 0.02), np.zeros((HEIGHT, 320, 3), np.uint8)
    agent.decision = decided(tokens)
    planned = reel.show(scene, {})[:, 320:]
    words = torch.cat([tokens[:1] / 2, tokens[1:]])
    agent.decision = decided(words, by_policy=True)
    page = reel.show(scene, {})[:, 320:]
    assert not np.array_equal(page, planned)
    own = picture(glyph(motions(words[:1, 0], known, 0.02)), HEIGHT, paper="white")[..., :3]
    differing = np.argwhere((page != own).any(-1))  # only where it says so
    assert len(differing) > 50 and (differing.max(0) < (20, 120)).all()
    red = [(shown[..., 0].astype(int) - shown[..., 1] > 60).any() for shown in (page, planned)]
    assert red == [True, False]
    agent.decision = decided(tokens)
    assert np.array_equal(reel.show(scene, {})[:, 320:], planned)
