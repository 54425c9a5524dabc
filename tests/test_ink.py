"""Laws of a film: of the plan drawn beside it, the strips below it, and its form as a moving picture."""

from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from configs.runs.film import HEIGHT, Reel, _writer, motions, sentence
from policies.decisions.decision import Decision
from policies.glyphs.glyph import glyph
from policies.glyphs.ink import picture
from policies.glyphs.strips import BLUE, LABELS, ORANGE, ROW, STEPS, Strips, bars
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


def test_bars_cover_what_they_measure_to_either_side_of_zero():
    values = np.array([0.0, 0.31, -0.77, 1.0, np.nan])
    covered = bars(values, -1.0, 1.0, 9)
    assert covered.sum(0) == pytest.approx([0, 0.31 * 4.5, 0.77 * 4.5, 4.5, 0])
    assert covered[:4, 3].all() and not covered[5:, :2].any() and not covered[:4, 2].any()


@pytest.mark.parametrize("size", [1, 6, 21])
def test_strips_show_the_newest_steps_each_dimension_in_its_lane_on_a_page_of_one_size(size):
    strips, lane, count = Strips(0.02), max(4, 32 // size), 240
    for n in range(count + 9):
        strips.add(np.eye(size)[n % size], 1.0, 0.5 if n % 2 else None)
        page = strips.draw(LABELS + 2 * count)
        assert page.shape[0] % 16 == 0 and page.shape == strips.draw(LABELS + 2 * count).shape
    blue = (page[:, LABELS::2] == BLUE).all(-1)
    for column in (0, 100, count - 1):
        top = STEPS + lane * ((9 + column) % size)
        assert set(np.flatnonzero(blue[: STEPS + lane * size, column])) == set(range(top, top + (lane - 1) // 2))
    reward = (page[STEPS + lane * size + ROW :, LABELS::2] == ORANGE).all(-1).any(0)
    assert (reward == (np.arange(9, count + 9) % 2 == 1)).all()


def test_a_moving_picture_has_every_fourth_frame_and_loops(tmp_path):
    with closing(_writer(tmp_path / "a.gif.mp4", 50)) as picture:
        for n in range(400):
            page = np.repeat(np.arange(64).reshape(8, 8, 1) == n // 4 % 64, 3, -1)
            picture.append_data(255 * page.astype(np.uint8))
    with Image.open(tmp_path / "a.gif.mp4") as shown:
        assert (shown.n_frames, shown.info["duration"], shown.info["loop"]) == (100, 80, 0)
