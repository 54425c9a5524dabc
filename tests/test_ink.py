"""Laws of ink on paper: the same figure as text and as an image of any size, of exact coverage; and beside a film."""

import hashlib
import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from configs.runs.films import HEIGHT, Reel, motions, sentence
from policies.agent import Decision
from policies.glyphs.glyph import Shape, drop, glyph
from policies.glyphs.ink import SCALE, draw, picture, svg
from policies.tokens.curves import Curve
from policies.tokens.vocabulary import Grip, Move, Stop
from worldmodel.settings import TokenConfig


def plan(seed=0, lanes=3):
    """Two motions around a grip."""
    draw_ = np.random.default_rng(seed)
    one, two = (Move(draw_.uniform(-1, 1, (5, lanes)), 0.5, 3, draw_.uniform(0, 0.3, (5, lanes))) for _ in range(2))
    return one, Grip(0.0), two, Stop()


@pytest.mark.parametrize("size", [31, 100, 240])
def test_a_drop_covers_its_area(size):
    disc = Shape((drop(0.13, -0.2, 0.5, 400),), 1.0, "mark")
    covered = picture([disc], size)[..., 3].astype(float).sum() / 255 * (2 / size) ** 2
    assert covered == pytest.approx(np.pi * 0.25, rel=2e-3)


def test_a_picture_stands_upright():
    """x to the right, y down, as SVG has it."""
    image = picture([Shape((drop(0.5, -0.5, 0.2),), 1.0, "mark")], 40)
    assert image[10, 30, 3] == 255 and image[30, 10, 3] == image[10, 10, 3] == image[30, 30, 3] == 0


def test_a_hole_shows_the_paper():
    image = picture([Shape((drop(0.0, 0.0, 0.8), drop(0.0, 0.0, 0.4)[::-1]), 1.0, "mark")], 50)
    assert image[25, 25, 3] == 0 and image[25, 40, 3] == 255


def test_pale_ink_has_its_opacity():
    disc = Shape((drop(0.0, 0.0, 0.8),), 0.4, "wash")
    assert picture([disc], 50, "#ff0000")[25, 25].tolist() == [255, 0, 0, 102]
    on_paper = picture([disc], 50, "#ff0000", paper="white").astype(int)
    assert np.abs(on_paper[25, 25] - [255, 153, 153, 255]).max() <= 1
    assert (on_paper[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()


def test_lines_filled_at_once_cover_what_they_cover_one_by_one():
    shapes = glyph(plan(lanes=6))
    single = [Shape(s.outlines, s.opacity, "mark") if s.role in ("stroke", "thread") else s for s in shapes]
    together, apart = (picture(s, 200)[..., 3].astype(int) for s in (shapes, single))
    assert np.abs(together - apart).mean() < 0.3
    assert ((together > 128) == (apart > 128)).mean() > 0.995


def test_the_same_plan_gives_the_same_outlines_always():
    """A change here changes every drawing that there is."""
    outlines = [np.rint(SCALE * outline).astype(np.int16) for shape in glyph(plan()) for outline in shape.outlines]
    assert (
        hashlib.sha256(np.concatenate(outlines).tobytes()).hexdigest()
        == "e43f08f13e9031a8b3cff39463f9241092d3c0ab39e457e70733e05e963dcd01"
    )


def test_the_svg_holds_the_same_outlines():
    """Read back, no point of ours is further than a unit from its lines, and no point of it from ours."""
    shapes = glyph(plan())
    text = svg(shapes, "a < b & c")
    assert 'fill="currentColor"' in text and not re.search(r"<script|href|url\(", text)
    root = ET.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{space}title").text == "a < b & c"
    paths = root.findall(f"{space}path")
    assert len(paths) == len(shapes)
    for path, shape in zip(paths, shapes, strict=True):
        assert path.get("class") == shape.role
        assert float(path.get("fill-opacity", 1)) == pytest.approx(shape.opacity, abs=1e-3)
        outlines = [read(part) for part in path.get("d").split("z") if part]
        solid = [SCALE * o for o in shape.outlines if np.ptp(np.rint(o * SCALE), axis=0).any()]
        assert len(outlines) == len(solid)
        for found, meant in zip(outlines, solid, strict=True):
            assert max(distance(found, meant).max(), distance(meant, found).max()) < 1.5


def distance(points, outline):
    """How far each of the points lies from a closed outline."""
    a, b = outline, np.roll(outline, -1, axis=0)
    along = ((points[:, None] - a) * (b - a)).sum(-1) / np.maximum(((b - a) ** 2).sum(-1), 1e-12)
    nearest = a + np.clip(along, 0, 1)[..., None] * (b - a)
    return np.linalg.norm(points[:, None] - nearest, axis=-1).min(1)


def read(path):
    """Points of one closed outline, of a move and relative lines."""
    numbers = np.array([int(n) for n in re.findall(r"-?\d+", path)]).reshape(-1, 2)
    assert re.fullmatch(r"M-?\d+ -?\d+l[-\d ]+", path)
    return np.cumsum(numbers, 0)


def test_a_file_is_written_as_its_ending_says(tmp_path):
    draw(plan(), tmp_path / "plan.svg")
    draw(plan(), tmp_path / "plan.png", 64)
    assert (tmp_path / "plan.svg").read_text().startswith("<svg ")
    from PIL import Image

    with Image.open(tmp_path / "plan.png") as image:
        assert image.size == (64, 64)
    with pytest.raises(ValueError, match=r"plan\.gif: a glyph is drawn as \.svg or \.png"):
        draw(plan(), tmp_path / "plan.gif")
    with pytest.raises(OSError):
        draw(plan(), tmp_path / "no" / "plan.svg")


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
    agent = SimpleNamespace(plan=plan, curve=known, planner=None, model=BLIND)
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


def test_a_film_shows_the_newest_plan_and_draws_it_once(generator, monkeypatch):
    known = Curve.of_token(TokenConfig(), 2)
    plans = [SimpleNamespace(tokens=torch.rand(3, 1, 2, generator=generator), std=torch.ones(3, 1, 2)) for _ in "ab"]
    decisions = [decided(plan_.tokens) for plan_ in plans]
    agent = SimpleNamespace(plan=None, decision=None, curve=known, planner=None, model=BLIND)
    reel, scene = Reel(agent, 0.02), np.zeros((HEIGHT, 320, 3), np.uint8)
    assert np.array_equal(reel.show(scene, {}), scene)
    pages = []
    for i in (0, 0, 1):
        agent.plan, agent.decision = plans[i], decisions[i]
        shown = reel.show(scene, {})
        assert shown.shape == (HEIGHT, 320 + HEIGHT, 3) and not shown[:, :320].any()
        pages.append(reel.page)
    assert pages[0] is pages[1] and not np.array_equal(pages[1], pages[2])
    assert (pages[0] < 128).any()
