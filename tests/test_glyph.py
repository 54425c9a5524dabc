"""Laws of the glyph: a plan can be read off its outlines, nearby plans look alike, all of it stays on its page.

And of its ink: the same figure as text and as an image of any size, of exact coverage.
"""

import hashlib
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.glyphs.glyph import UNKNOWN, Lanes, Shape, drop, glyph
from policies.glyphs.ink import ERROR, SCALE, draw, picture, svg
from policies.glyphs.layout import GAP, MANY, Timeline
from policies.tokens.curves import design
from policies.tokens.vocabulary import Ask, Grip, Look, Move, Stop

seeds = st.integers(0, 999)
few = settings(max_examples=30)


def sentence(seed, lanes=None, events=True):
    """Motions of every degree and length, with events between and inside them."""
    draw = np.random.default_rng(seed)
    lanes = lanes or int(draw.integers(1, 9))
    tokens = []
    for _ in range(draw.integers(1, 6)):
        knots = int(draw.integers(1, 7))
        degree = int(draw.integers(0, min(knots, 4)))
        points, spread = draw.uniform(-1, 1, (knots, lanes)), draw.uniform(0, 0.5, (knots, lanes))
        tokens.append(Move(points, float(draw.uniform(0.02, 2)), degree, spread))
        if events and draw.random() < 0.5:
            tokens.append([Grip(float(draw.random()), 0.3), Grip(1.0), Look("cup"), Ask("so?")][draw.integers(4)])
    return (*tokens, Stop()) if events and draw.random() < 0.5 else tuple(tokens)


PLAN = sentence(5, 6)
"""Has events, and spreads."""


def middle(outline):
    """Centre line (n, 2) and half-widths (n,) of a ribbon's outline."""
    left, right = outline[: len(outline) // 2], outline[len(outline) // 2 :][::-1]
    return (left + right) / 2, np.linalg.norm(left - right, axis=1) / 2


def angle(points):
    """Clockwise from the top, 0 to 2 pi."""
    return np.arctan2(points[..., 0], -points[..., 1]) % (2 * np.pi)


def nudged(tokens, size, seed=0):
    """The same sentence with every control point moved by up to `size`."""
    draw = np.random.default_rng(seed)
    return tuple(
        replace(t, points=np.clip(t.points + draw.choice([-size, size], t.points.shape), -1, 1))
        if isinstance(t, Move)
        else t
        for t in tokens
    )


def of(shapes, role, token=None):
    """The shapes of one role, and of one token."""
    return [s for s in shapes if s.role == role and token in (None, s.token)]


@few
@given(seeds, st.floats(1e-6, 0.2))
def test_nearby_plans_look_alike(seed, size):
    tokens = sentence(seed)
    before, after = glyph(tokens), glyph(nudged(tokens, size))
    lanes = Lanes.of(tokens[0].points.shape[1])
    steepest = 1.5 * (lanes.swing + 0.06)  # measured: 1.07; the width of the pen follows the value, too
    assert [(s.role, s.opacity) for s in before] == [(s.role, s.opacity) for s in after]
    for a, b in zip(before, after, strict=True):
        for x, y in zip(a.outlines, b.outlines, strict=True):
            assert np.linalg.norm(x - y, axis=1).max() <= steepest * size + 1e-12


@few
@given(seeds, st.integers(0, 10**6))
def test_every_control_point_shows(seed, which):
    """Moving any one of them by a twentieth of its range moves the stroke of its token and lane, and no other lane."""
    tokens = sentence(seed)
    i = next(i for i, t in enumerate(tokens) if isinstance(t, Move))
    points = tokens[i].points.copy()
    k, lane = which % points.shape[0], which % points.shape[1]
    points[k, lane] += 0.1 if points[k, lane] < 0 else -0.1
    changed = (*tokens[:i], replace(tokens[i], points=points), *tokens[i + 1 :])
    pairs = list(zip(of(glyph(tokens), "stroke"), of(glyph(changed), "stroke"), strict=True))
    moved = {(a.token, a.lane): np.abs(a.outlines[0] - b.outlines[0]).max() for a, b in pairs}
    assert moved[i, lane] > 0.05 * 0.1 * Lanes.of(points.shape[1]).swing
    assert all(far == 0 for (_, other), far in moved.items() if other != lane)


@few
@given(seeds)
@example(176)
def test_everything_stays_on_the_page(seed):
    tokens = tuple(replace(t, std=9 * t.std) if isinstance(t, Move) else t for t in sentence(seed))
    edge = tuple(replace(t, points=np.sign(t.points)) if isinstance(t, Move) else t for t in tokens)
    for shape in (*glyph(tokens), *glyph(edge)):
        assert 0 < shape.opacity <= 1
        assert all(np.isfinite(o).all() and np.abs(o).max() <= 1 for o in shape.outlines)


@few
@given(seeds)
def test_a_plan_can_be_read_from_its_strokes(seed):
    """Number of tokens and lanes, durations, and the values and spreads that no joint touches."""
    tokens = sentence(seed)
    shapes, moves = glyph(tokens), [i for i, t in enumerate(tokens) if isinstance(t, Move)]
    count = tokens[0].points.shape[1]
    lanes = Lanes.of(count)
    assert {(s.token, s.lane) for s in of(shapes, "stroke")} == {(i, d) for i in moves for d in range(count)}
    assert len(of(shapes, "seed")) == count
    assert len(of(shapes, "rest")) == (count if count <= MANY else 0)
    seconds = []
    for i in moves:
        lines = [middle(s.outlines[0])[0] for s in of(shapes, "stroke", i)]
        reach = angle(lines[0])
        seconds.append(reach[-1] - reach[0])
        u = (reach - reach[0]) / (reach[-1] - reach[0])
        at = (np.floor(0.5 * len(tokens[i].points)) + 0.5) / len(tokens[i].points) if tokens[i].degree == 0 else 0.5
        near = int(np.abs(u - at).argmin())
        weights = design(u[near : near + 1], len(tokens[i].points), tokens[i].degree)
        read = (np.array([np.linalg.norm(line[near]) for line in lines]) - lanes.rest) / lanes.swing
        # A level that changes is met exactly only in its middle, which may lie between two points of the outline.
        assert np.allclose(read, (weights @ tokens[i].points)[0], atol=1e-6 if tokens[i].degree else 0.05)
        if tokens[i].degree and 0.36 < u[near] < 0.64:
            widths = [middle(s.outlines[0])[1][near] for s in of(shapes, "wash", i)[:count]]
            deviation = np.sqrt(weights**2 @ tokens[i].std ** 2)[0]
            assert np.allclose(np.array(widths) / lanes.swing, np.minimum(deviation, UNKNOWN), atol=1e-6)
    shares = np.array([tokens[i].seconds for i in moves])
    assert np.allclose(np.array(seconds) / sum(seconds), shares / shares.sum())


def test_a_heavier_stroke_is_a_larger_value_and_paler_ink_a_wider_one():
    values = np.array([[0.0, 0.3, -0.6, 1.0]])
    shapes = glyph([Move(values, 1.0, 0, np.array([[0.05, 0.1, 0.2, 0.4]]))])
    widest = [middle(s.outlines[0])[1].max() for s in of(shapes, "stroke")]
    assert (np.diff(widest) > 0).all()
    pale = of(shapes, "wash")[:4]
    assert (np.diff([s.opacity for s in pale]) <= 0).all() and pale[-1].opacity < pale[0].opacity
    assert (np.diff([middle(s.outlines[0])[1].max() for s in pale]) > 0).all()


@few
@given(seeds)
def test_motions_that_meet_flow_into_one_another(seed):
    """No jump in any lane where one stroke ends and the next begins, pause or not."""
    shapes = glyph(sentence(seed))
    for lane in {s.lane for s in of(shapes, "stroke")}:
        runs = [middle(s.outlines[0])[0] for s in shapes if s.role in ("stroke", "thread") and s.lane == lane]
        runs.sort(key=lambda line: angle(line[len(line) // 2]))
        assert angle(runs[0][0]) == pytest.approx(0, abs=1e-9) or angle(runs[0][0]) == pytest.approx(2 * np.pi)
        for one, other in pairwise(runs):
            assert np.allclose(one[-1], other[0], atol=1e-9)


@given(seeds)
def test_the_circle_is_shared_by_time(seed):
    tokens = sentence(seed)
    timeline = Timeline.of(tokens)
    assert [s.token for s in timeline.spans] == list(tokens)
    for span in timeline.spans:
        assert GAP / 2 - 1e-9 <= span.begin <= span.end <= 2 * np.pi - GAP / 2 + 1e-9
        if isinstance(span.token, Move | Stop):
            assert span.end - span.begin == pytest.approx(timeline.rate * span.token.seconds)
    wide = [s for s in timeline.spans if s.end > s.begin]
    assert wide[0].begin == pytest.approx(GAP / 2) and wide[-1].end == pytest.approx(2 * np.pi - GAP / 2)
    assert all(a.end == pytest.approx(b.begin) for a, b in pairwise(wide))


@pytest.mark.parametrize(("after", "part"), [(0.1, 0.25), (0.4, 1.0), (0.6, 1.5), (5.0, 2.0)])
def test_an_event_inside_a_motion_stands_at_its_time(after, part):
    """Also past other events, and never past the end."""
    move = Move(np.zeros((1, 1)), 0.4, 0)
    timeline = Timeline.of([Grip(0.0, after), move, Look("cup"), move])
    grip, first, _, second = timeline.spans
    want = first.begin + part * (first.end - first.begin)
    if part > 1:
        want = second.begin + (part - 1) * (second.end - second.begin)
    assert grip.begin == grip.end == pytest.approx(want)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6))
def test_the_ruler_counts_the_time(hundredths):
    timeline = Timeline.of([Move(np.zeros((1, 1)), n / 100, 0) for n in hundredths])
    ticks, total = timeline.ticks(), sum(hundredths)
    angles, ranks = zip(*ticks, strict=True)
    finest = next(rank for rank in (-2, -1, 0) if total <= 80 * 10 ** (rank + 2))
    unit = 10 ** (finest + 2)  # in hundredths
    assert len(ticks) == -(-total // unit) <= 80
    assert np.allclose((np.array(angles) - GAP / 2) / timeline.rate * 100, unit * np.arange(len(ticks)), atol=1e-6)
    assert [r > finest for r in ranks] == [k % 10 == 0 for k in range(len(ticks))]


def test_each_kind_of_event_has_its_mark():
    move = Move(np.zeros((1, 2)), 1.0, 0)
    heads = []
    for event in (Grip(0.0), Grip(0.5), Grip(1.0), Look("cup"), Ask("so?"), Stop()):
        shapes = of(glyph([move, event]), "mark", 1)
        heads.append(np.concatenate([o for s in shapes for o in s.outlines]))
    assert all(a.shape != b.shape or np.abs(a - b).max() > 0.01 for i, a in enumerate(heads) for b in heads[:i])
    assert not of(glyph([move]), "mark")


@pytest.mark.parametrize("tokens", [(), (Stop(),), (Ask("so?"), Look("cup"), Grip(0.0, 1.0))])
def test_a_sentence_without_motion_is_drawn_too(tokens):
    shapes = glyph(tokens)
    assert bool(shapes) == bool(tokens)
    assert not of(shapes, "stroke")


def test_many_lanes_stay_apart_at_rest_and_few_do_not_meet():
    for count in range(1, 40):
        lanes = Lanes.of(count)
        assert count == 1 or np.diff(lanes.rest).min() > 0.01
        assert lanes.rest[0] - lanes.swing > 0.25 and lanes.rest[-1] + lanes.swing < 0.9
    assert len(of(glyph([Move(np.zeros((1, MANY)), 1.0, 0)]), "wash")) > MANY
    assert len(of(glyph([Move(np.zeros((1, MANY + 1)), 1.0, 0)]), "wash")) == MANY + 1


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
    shapes = glyph(PLAN)
    single = [Shape(s.outlines, s.opacity, "mark") if s.role in ("stroke", "thread") else s for s in shapes]
    together, apart = (picture(s, 200)[..., 3].astype(int) for s in (shapes, single))
    assert np.abs(together - apart).mean() < 0.3
    assert ((together > 128) == (apart > 128)).mean() > 0.995


def test_the_same_plan_gives_the_same_outlines_always():
    """A change here changes every drawing that there is."""
    still = Move(np.zeros((4, 9)), 0.3, 3, np.full((4, 9), 1e200))  # many lanes, and a spread without bounds
    shapes = [*glyph(PLAN), *glyph(sentence(9)), *glyph((still, *[Grip(0.2)] * 30, still, Ask("so?"), Stop()))]
    outlines = [np.rint(SCALE * outline).astype(np.int16) for shape in shapes for outline in shape.outlines]
    about = [(shape.role, shape.token, shape.lane, round(shape.opacity, 6)) for shape in shapes]
    digest = hashlib.sha256(np.concatenate(outlines).tobytes() + repr(about).encode()).hexdigest()
    assert digest == "a21e5270ceb90cba236c6d98a187963186d235a0699b31a0c6b200f1776061c2"


def test_the_svg_holds_the_same_outlines():
    """Read back, no point of ours is further than twice ERROR from its lines, and none of it from ours."""
    shapes = glyph(PLAN)
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
            assert max(distance(found, meant).max(), distance(meant, found).max()) < 2 * ERROR


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
    draw(PLAN, tmp_path / "plan.svg")
    draw(PLAN, tmp_path / "plan.png", 64)
    assert (tmp_path / "plan.svg").read_text().startswith("<svg ")
    from PIL import Image

    with Image.open(tmp_path / "plan.png") as image:
        assert image.size == (64, 64)
    with pytest.raises(ValueError, match=r"plan\.gif: a glyph is drawn as \.svg or \.png"):
        draw(PLAN, tmp_path / "plan.gif")
