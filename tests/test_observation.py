"""Laws of the record of what is observed: complete, checked once, nothing under a mask; and of its frame history."""

import pytest
import torch

from worldmodel.observation import FrameHistory, Observation
from worldmodel.replay import Replay, window_at
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
        assert torch.equal(seen.map(lambda x: torch.stack([x, x])).presence[1], seen.presence)
        assert all(bool(seen.values[key].any()) == (key in values) for key in SENSES)
        assert {key: tuple(value.shape[1:]) for key, value in seen.values.items()} == SENSES


@pytest.mark.parametrize("count", [2, 3])
def test_nothing_leaks_from_under_a_mask(count):
    masks = {STATE_KEY: torch.tensor([False, True]), FRONT: torch.tensor([[0.0], [1.0]])}
    seen = Observation.of(dict([*SENSES.items()][:count]), whole(**{STATE_KEY: NAN}), masks)
    assert seen.values[STATE_KEY].tolist() == [[0, 0, 0], [1, 2, 3]]
    assert not seen.values[FRONT][0].any() and seen.values[FRONT][1].all()
    assert seen.presence.tolist() == [[0, 0, 1][:count], [1, 1, 1][:count]]
    alone = Observation.of({STATE_KEY: (3,)}, {STATE_KEY: torch.ones(2, 3)}, {STATE_KEY: torch.tensor([0, 1])})
    assert alone.presence.tolist() == [[0], [1]] and alone.values[STATE_KEY].all()  # a single sense keeps its value


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, r"none of the senses observation\.state, observation\.images\.front is there; there is nothing"),
        ({LANGUAGE_KEY: torch.ones(2, 2)}, r"none of the senses .* is there; there is observation\.language$"),
        ({STATE_KEY: [1.0, 2.0, 3.0]}, r"observation\.state: a list; a tensor of shape \(B, 3\) is needed"),
        ({STATE_KEY: torch.zeros(3)}, r"observation\.state: shape \(3,\); \(B, 3\) is needed"),
        ({FRONT: FRAMES.float()}, r"observation\.images\.front: frames of torch\.float32"),
        ({STATE_KEY: torch.zeros(3, 3), FRONT: FRAMES}, "observation.images.front: of 2 environments, .* of 3"),
        ({STATE_KEY: NAN}, r"observation\.state\[1\] is nan"),
        ({STATE_KEY: torch.full((1, 3), torch.inf)}, r"observation\.state\[0\] is inf"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_that_names_it(values, line):
    with pytest.raises(ValueError, match=f"^{line}") as caught:
        Observation.of(SENSES, values)
    assert "\n" not in str(caught.value)


SHOWN = {STATE_KEY: (2,), FRONT: (7, 5, 3), LANGUAGE_KEY: (3,)}
LAGS = (0, 1, 3)
ON = torch.tensor([False])


def observation(number, envs=1, lost=(), absent=()):
    """Frames that all differ; `lost` senses are masked in the first environment, `absent` ones have no key."""
    frames = torch.full((envs, 7, 5, 3), number % 256, dtype=torch.uint8) + torch.arange(envs).view(-1, 1, 1, 1)
    words = torch.eye(3)[[number // 7 % 3] * envs]
    values = {STATE_KEY: torch.full((envs, 2), float(number)), FRONT: frames.byte(), LANGUAGE_KEY: words}
    masks = {key: torch.arange(envs) > 0 for key in lost}
    return Observation.of(SHOWN, {key: value for key, value in values.items() if key not in absent}, masks)


def lossy(number, envs=1):
    """The same, of which every fifth frame is masked, and every seventh is not there."""
    return observation(number, envs, lost=[FRONT] * (number % 5 == 3), absent=[FRONT] * (number % 7 == 6))


def ages(stacks, env=0):
    """Which number each frame of a stack had."""
    return (stacks.values[FRONT][env, :, 0, 0, 0] - env).tolist()


def filled(observations, rows=50):
    """A replay of one episode."""
    replay = Replay(rows, 1, SHOWN, 1, lags=LAGS)
    first, *others = observations
    replay.start(torch.tensor([True]), first)
    for seen in others:
        replay.add(seen, torch.zeros(1, 1), torch.zeros(1), ON)
    return replay


@pytest.mark.parametrize("observation", [observation, lossy])
@pytest.mark.parametrize("capacity", [200, 18])
def test_the_agent_sees_what_the_replay_shows(capacity, observation):
    history, replay, number, shown = FrameHistory(LAGS), Replay(capacity, 2, SHOWN, 1, lags=LAGS), 0, {}
    for episode in (1, 2, 6, 5):
        history.reset(~ON.expand(2))
        replay.start(~ON.expand(2), observation(number, 2))
        shown[int(replay.head[0])] = history.see(observation(number, 2))
        for _ in range(episode):
            number += 1
            replay.add(observation(number, 2), torch.zeros(2, 1), torch.zeros(2), ON.expand(2))
            shown[int(replay.head[0])] = history.see(observation(number, 2))
        number += 1
    oldest = (int(replay.head[0]) + 1) % replay.rows if int(replay.filled[0]) == replay.rows else 0
    # Some of the past of the oldest rows may have been written over.
    whole = [row for row in shown if not replay.final[0, row] and (row - oldest) % replay.rows >= max(LAGS)]
    env, rows = torch.arange(2).repeat_interleave(len(whole)), torch.tensor(whole).repeat(2)
    window = window_at(replay, env, rows, 1, 1).seen
    for b, (e, row) in enumerate(zip(env.tolist(), rows.tolist(), strict=True)):
        for key in SHOWN:
            assert torch.equal(window.present[key][0, b], shown[row].present[key][e])
            assert torch.equal(window.values[key][0, b], shown[row].values[key][e]), (key, row)


@pytest.mark.parametrize("gone", [{"lost": [FRONT]}, {"absent": [FRONT]}])
def test_no_frame_is_shown_that_was_missing_nor_what_came_before_it(gone):
    history = FrameHistory(LAGS)
    for number in range(4):
        history.see(observation(number, 2))
    history.see(observation(4, 2, **gone))
    for number, expected in ((5, [5, 5, 5]), (6, [6, 5, 5]), (7, [7, 6, 5]), (8, [8, 7, 5])):
        assert ages(history.see(observation(number, 2))) == expected


def test_one_environments_reset_leaves_the_others_alone():
    history = FrameHistory(LAGS)
    for number in range(4):
        seen = history.see(observation(number, 2))
    assert [ages(seen, env) for env in (0, 1)] == [[3, 2, 0]] * 2
    history.reset(torch.tensor([True, False]))
    for number, expected in ((4, [[4, 4, 4], [4, 3, 1]]), (5, [[5, 4, 4], [5, 4, 2]])):
        seen = history.see(observation(number, 2))
        assert [ages(seen, env) for env in (0, 1)] == expected


def test_for_missed_control_steps_stands_the_frame_before_them():
    """As if it had been seen again at each of them."""
    one, other = FrameHistory(LAGS), FrameHistory(LAGS)
    for number, steps in ((0, 1), (1, 3), (2, 1), (3, 9), (4, 2)):
        for _ in range(steps - 1):
            one.see(observation(number - 1))
        assert ages(one.see(observation(number))) == ages(other.see(observation(number), steps)), number


def test_a_sentence_is_kept_once_and_frames_once():
    replay = filled([observation(number) for number in range(40)])
    saved = replay.state_dict()
    assert saved["sentences"].shape == (3, 3)
    assert saved[FRONT].shape == (1, 40, 7, 5, 3)
    other = Replay(50, 1, SHOWN, 1, lags=LAGS)
    other.load_state_dict({name: t.clone() for name, t in saved.items()})
    one, two = (window_at(r, torch.tensor([0]), torch.tensor([20]), 4, 2).seen for r in (replay, other))
    assert all(torch.equal(one.values[key], two.values[key]) for key in SHOWN)
