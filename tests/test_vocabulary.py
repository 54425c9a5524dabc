"""Laws of the vocabulary: what is written comes back, what cannot be is refused, a walk is bounded, joined, at rest."""

import json
import re
from functools import partial
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policies.tokens.curves import Curve, design
from policies.tokens.playback import Playback
from policies.tokens.vocabulary import (
    Ask,
    Grip,
    Look,
    Move,
    Stop,
    checked,
    from_plain,
    plan_bytes,
    read_sentence,
    text,
    to_plain,
    unfit,
)

SIZE = 2

unit = st.floats(0, 1)
seconds = st.floats(0.02, 1.5)
points = st.integers(0, 9999).map(lambda seed: np.random.default_rng(seed).uniform(-1, 1, (4, SIZE)))
moves = st.builds(Move, points, seconds, st.just(3), st.one_of(st.none(), points.map(abs)))
curves = st.tuples(st.integers(1, 6), st.integers(0, 4), st.integers(0, 999), seconds).map(
    lambda t: Move(np.random.default_rng(t[2]).uniform(-1, 1, (t[0], SIZE)), t[3], min(t[1], t[0] - 1))
)
grips = st.builds(Grip, unit, st.floats(0, 2))
looks = st.builds(Look, st.sampled_from(("cup", "table")), st.none() | st.tuples(unit, unit, unit))
asks = st.builds(Ask, st.sampled_from(("which cup?", "may I?")))
stops = st.builds(Stop, seconds)


def sentences(motions=moves, others=grips | looks | asks):
    """Sentences that may end in a stop."""
    ends = st.lists(stops, max_size=1)
    return st.tuples(st.lists(motions | others, max_size=6), ends).map(lambda pair: (*pair[0], *pair[1]))


def actions(walk):
    """The times (n,) and actions (n, A) of a walk."""
    pairs = [(time, item) for time, item in walk if isinstance(item, np.ndarray)]
    return np.array([t for t, _ in pairs]), np.array([a for _, a in pairs]).reshape(-1, SIZE)


@given(sentences())
def test_plain_data_and_back_is_the_same_sentence(sentence):
    again = from_plain(json.loads(json.dumps(to_plain(sentence))))
    assert again == sentence
    assert hash(again) == hash(sentence)
    counts = [re.match(r"(\d+) × ", part) for part in text(sentence).split(" · ")]
    assert text(sentence).isprintable()
    assert sum(int(count[1]) if count else 1 for count in counts) == max(len(sentence), 1)


def test_a_sentence_reads_as_its_tokens_do():
    said = (Grip(0), Grip(1, 0.25), Grip(0.5), Look("cup"), Look("cup", (0.2, 0.0, 0.05)), Ask("which?"), Stop(2))
    line = "grip(close) · grip(open, +0.25 s) · grip(0.5) · look(cup) · look(cup at 0.2, 0, 0.05) · ask(which?) · stop"
    assert text((Move(np.zeros((4, 2)), 0.4), *said)) == f"move(0.4 s) · {line}"


@pytest.mark.parametrize("change", [("seconds", 2.0), ("degree", 2), ("std", None), ("std", 2), ("points", -1)])
def test_motions_are_the_same_if_every_number_is(change):
    name, value = change
    numbers = {"points": np.eye(4, 2), "seconds": 1.0, "degree": 3, "std": np.ones((4, 2))}
    changed = numbers | {name: value * numbers[name] if name in ("std", "points") and value else value}
    assert Move(**numbers) == Move(**numbers) != Move(**changed) and Move(**numbers) != Grip(1)
    assert hash(Move(**numbers)) == hash(Move(**numbers))


def test_a_motion_has_up_to_256_points_and_lasts_from_a_millisecond_to_a_minute():
    for count, seconds, fits in ((256, 60.0, True), (1, 0.001, True), (257, 1, False), (4, 61, False), (4, 0, False)):
        assert bool(unfit(count, seconds)) != fits
        if fits:
            assert Move(np.ones((count, 2)), seconds, 0).points.shape == (count, 2)
    assert np.abs(Move.of(np.array([1 + 1e-7, -1 - 1e-7]), 2, 1, 1.0).points).max() == 1


def test_a_list_or_an_agents_plan_is_read_from_its_file(tmp_path):
    path, sentence = tmp_path / "plan.json", (Move(np.eye(2), 1.0, 1), Look("cup", (0.0, 0.1, 0.2)), Stop())
    plans = [json.dumps(to_plain(sentence)).encode(), *(plan_bytes(sentence, "task", arm) for arm in (True, False))]
    for data in plans:
        path.write_bytes(data)
        assert read_sentence(path) == sentence
        if data is not plans[2]:
            assert read_sentence(path, places=True) == sentence
    with pytest.raises(ValueError, match=r"plan\.json: a plan for 'task', whose actions are not places"):
        read_sentence(path, places=True)


@pytest.mark.parametrize(
    ("names", "make"),
    [
        ("move.seconds", lambda: Move(np.zeros((4, 2)), 0.0)),
        (r"move.points\[0, 0\]", lambda: Move(np.full((4, 2), 1.5), 1.0)),
        (r"move.points\[3, 1\]", lambda: Move(np.diag([0, 0, 0, -1.5])[:, 2:], 1.0)),
        ("move.points", lambda: Move(np.zeros((257, 2)), 1.0)),
        ("move.points: shape", lambda: Move(np.zeros((0, 2)), 1.0)),
        ("move.degree", lambda: Move(np.zeros((3, 2)), 1.0)),
        ("move.std", lambda: Move(np.zeros((4, 2)), 1.0, 3, np.zeros((4, 1)))),
        (r"move.std\[0, 0\]", lambda: Move(np.zeros((4, 2)), 1.0, 3, np.full((4, 2), -1.0))),
        ("grip.level", lambda: Grip(1.2)),
        ("grip.after", lambda: Grip(1, -1.0)),
        ("look.what", lambda: Look("a\nb")),
        ("ask.question", lambda: Ask(" ")),
        ("look.where", lambda: Look("cup", (0.0, np.inf, 0.0))),
        ("stop.seconds", lambda: Stop(np.inf)),
        ("token 1 of 2", lambda: checked([Stop(), Grip(1)])),
        ("move.points", lambda: checked([Move(np.zeros((4, n)), 1.0) for n in (2, 3)])),
        ("position", lambda: Playback([], np.array([2.0, 0.0]), 50.0)),
        ("rate_hz", lambda: Playback([], np.zeros(2), 0.0)),
        ("gripper", lambda: Playback([], np.zeros(2), 50.0, gripper=2)),
        ("a sentence", lambda: from_plain({"kind": "stop"})),
        ("token 1 of 1: 3", lambda: from_plain([3])),
        ("token 2 of 2: kind='jump'", lambda: from_plain([{"kind": "stop"}, {"kind": "jump"}])),
        ("token 1 of 1: grip.level: missing", lambda: from_plain([{"kind": "grip"}])),
        *(
            (f"token 1 of 1: {wrong['kind']}.{key}", partial(from_plain, [wrong | {key: value}]))
            for wrong, key, values in (
                ({"kind": "grip"}, "level", ("half", 10**400, True, float("nan"))),
                ({"kind": "move", "seconds": 1}, "points", ([[0, 1], [0]], [], None, [["1"]], [[10**400]])),
                ({"kind": "move", "seconds": 1, "points": [[0]]}, "degree", (0.5, "0")),
                ({"kind": "look"}, "what", (1,)),
                ({"kind": "look", "what": "cup"}, "where", ([0, 1], [0, "1", 2], 5)),
            )
            for value in values
        ),
    ],
)
def test_what_no_token_can_be_is_refused_in_one_line_that_names_it(names, make):
    with pytest.raises(ValueError, match=f"^{names}") as caught:
        make()
    assert "\n" not in str(caught.value)


@given(sentences(curves), st.sampled_from([10.0, 30.0, 50.0]))
def test_a_walk_is_bounded_in_order_and_keeps_its_clock(sentence, hz):
    walk = Playback(sentence, np.array([0.5, -1.0]), hz, np.array([3.0, -2.0]))
    items = [*islice(walk, 3), *walk]  # left, it goes on where it was
    assert all(a <= b + 1e-9 for (a, _), (b, _) in pairwise(items))
    at = np.array([t for t, item in items if isinstance(item, np.ndarray)])
    np.testing.assert_allclose(at, (np.arange(len(at)) + 0.5) / hz)
    whole = sum(0.3 if isinstance(t, Ask) else getattr(t, "seconds", 0) for t in sentence)
    assert abs(len(at) - whole * hz) <= 0.5 + 1e-6
    assert all(np.abs(item).max() <= 1 for _, item in items if isinstance(item, np.ndarray))
    events, wanted = [item for _, item in items if not isinstance(item, np.ndarray)], [*sentence]
    for kinds, order in ((Look | Ask | Stop, list), (Grip, partial(sorted, key=str))):
        assert order(e for e in events if isinstance(e, kinds)) == order(t for t in wanted if isinstance(t, kinds))


@pytest.mark.parametrize("degree", [0, 3])
def test_a_motion_goes_on_from_the_position_and_follows_its_other_points(degree):
    points, start = np.random.default_rng(0).uniform(-1, 1, (5, SIZE)), np.array([0.2, -0.1])
    at, y = actions(Playback([Move(points, 0.8, degree)], start, 50.0, np.full(SIZE, 0.5)))
    followed = points if degree == 0 else [start, *points[1:]]
    np.testing.assert_allclose(y, design(at / 0.8, 5, degree) @ followed)


@pytest.mark.parametrize(("each_s", "hz"), [(0.1, 5.0), (1.0, 0.5)])
def test_an_action_that_is_due_as_a_motion_ends_is_the_next_ones(each_s, hz):
    """However the sum of their times is rounded."""
    _, y = actions(Playback([Move(np.full((1, SIZE), n / 10), each_s, 0) for n in range(8)], np.zeros(SIZE), hz))
    np.testing.assert_allclose(y, np.outer([0.1, 0.3, 0.5, 0.7], np.ones(SIZE)))


@given(curves, seconds, st.integers(0, 99))
def test_a_stop_continues_and_ends_at_rest_within_bounds(motion, duration, seed):
    """The rate goes on from the motion's, never grows, and is nothing at the end."""
    hz = 500.0
    start = np.random.default_rng(seed).uniform(-1, 1, SIZE)
    moving = Playback([motion], start, hz)
    list(moving)
    stopping = Playback([Stop(duration)], moving.position, hz, moving.rate)
    _, y = actions(stopping)
    y = np.vstack([y, stopping.position])
    assert np.abs(y).max() <= 1
    speed = np.abs(np.diff(y[:-1], axis=0)) * hz
    assert (speed <= np.abs(moving.rate) + 1e-6).all()
    assert (np.diff(speed, axis=0) <= 1e-6).all()
    assert (speed[-1] <= np.abs(moving.rate) * (2 / (duration * hz)) ** 2 + 1e-6).all()
    assert not stopping.rate.any()
    free = np.abs(moving.position + moving.rate * duration / 3) <= 1  # nothing in the way: the rate is met
    gap = np.abs(y[0] - moving.position - moving.rate / hz / 2)
    assert (gap[free] <= np.abs(moving.rate)[free] / hz / (duration * hz) + 1e-9).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_joint_that_would_leave_its_range_stops_at_its_end_sooner_than_one_that_would_not(sign):
    start, way, lasts = np.array([0.9, -0.9]), np.array([0.1, 0.2]), np.array([0.3, 0.6])  # 3 x way / rate
    at, y = actions(Playback([Stop(0.6)], sign * start, 50.0, sign * np.ones(SIZE)))
    left = 1 - np.minimum(at[:, None] / lasts, 1)
    np.testing.assert_allclose(y, sign * (start + way * (1 - left**3)))


@pytest.mark.parametrize("shape", [(1, 1, 0), (2, 2, 1), (4, 2, 1), (4, 3, 2), (8, 5, 3)])
def test_the_world_models_token_is_a_move(shape):
    """From where it begins, at the control rate it was made for, it gives the actions that the agent executes."""
    curve = Curve.of(*shape, SIZE)
    token = torch.rand(curve.size, generator=torch.Generator().manual_seed(3)) * 2 - 1
    step = 0.02
    move = Move.of(token.numpy(), curve.control_points, curve.degree, curve.length * step)
    _, y = actions(Playback([move], move.points[0], 1 / step))
    np.testing.assert_allclose(y, curve.decode(token).numpy(), atol=1e-6)


def test_grips_come_when_they_are_due_and_fill_their_column():
    move = Move(np.full((4, SIZE), 0.5), 0.4)
    sentence = (move, Grip(0, 0.1), move, Grip(1, 9.0), Stop(0.2))
    items = list(Playback(sentence, np.full(SIZE, 0.5), 50.0, gripper=1))
    times = [(t, item) for t, item in items if not isinstance(item, np.ndarray)]
    assert [(round(t, 6), item) for t, item in times] == [(0.5, Grip(0, 0.1)), (1.0, Grip(1, 9.0)), (1.5, Stop(0.2))]
    for time, action in items:
        if isinstance(action, np.ndarray):  # in the end the rest holds on for the gripper
            np.testing.assert_allclose(action, [0.5, 0.5 if time < 0.5 else -1.0 if time < 1.0 else 1.0])


def test_before_a_question_the_motion_comes_to_rest_and_then_goes_on():
    ramp = Move(np.linspace(0, 0.6, 4)[:, None].repeat(SIZE, 1), 0.6)
    walk = Playback([ramp, Ask("may I?"), ramp], np.zeros(SIZE), 50.0)
    for _, item in walk:
        if isinstance(item, Ask):
            assert not walk.rate.any()
            np.testing.assert_allclose(walk.position, 0.6 + 1.0 * 0.3 / 3)
    np.testing.assert_allclose(walk.position, (design(np.ones(1), 4, 3) @ ramp.points)[0])
