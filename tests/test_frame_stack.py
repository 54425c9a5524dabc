"""Laws of frame stacks: the agent sees at once what the replay would show it; nothing leaks over a reset."""

import pytest
import torch

from policies.frame_stack import FrameStack
from worldmodel.replay import Replay
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY, mask
from worldmodel.windows import window_at

FRONT = "observation.images.front"
SENSES = {STATE_KEY: (2,), FRONT: (4, 5, 3), LANGUAGE_KEY: (3,)}
LAGS = (0, 1, 3)


def observation(number, envs=1):
    """Frames that all differ."""
    frames = torch.full((envs, 4, 5, 3), number % 256, dtype=torch.uint8) + torch.arange(envs).view(-1, 1, 1, 1)
    words = torch.eye(3)[[number // 7 % 3] * envs]
    return {STATE_KEY: torch.full((envs, 2), float(number)), FRONT: frames.byte(), LANGUAGE_KEY: words}


def of(seen, env):
    """What one environment shows."""
    return {key: value[env] for key, value in seen.items()}


def lossy(number):
    """The same, of which every fifth frame is masked, and every seventh is not there."""
    seen = observation(number)
    if number % 5 == 3:
        seen[mask(FRONT)] = torch.zeros(1, 1)
    if number % 7 == 6:
        del seen[FRONT]
    return seen


@pytest.mark.parametrize("observation", [observation, lossy])
@pytest.mark.parametrize("capacity", [100, 9])
def test_the_agent_sees_what_the_replay_shows(capacity, observation):
    frame_stack, replay, number, shown = FrameStack(LAGS), Replay(capacity, 1, SENSES, 1, lags=LAGS), 0, {}
    for episode in (1, 2, 6, 5):
        frame_stack.forget(torch.ones(1, dtype=torch.bool))
        replay.start(0, of(observation(number), 0))
        shown[int(replay.head[0])] = frame_stack.see(observation(number))
        for _ in range(episode):
            number += 1
            replay.add(0, torch.zeros(1), 0.0, of(observation(number), 0), False)
            shown[int(replay.head[0])] = frame_stack.see(observation(number))
        number += 1
    held = [row for row in range(int(replay.filled[0])) if not replay.final[0, row]]
    oldest = (int(replay.head[0]) + 1) % replay.rows if int(replay.filled[0]) == replay.rows else 0
    for row in held:
        if (row - oldest) % replay.rows < max(LAGS):
            continue  # some of its past may have been written over
        window = window_at(replay, torch.tensor([0]), torch.tensor([row]), 1, 1)
        for key in SENSES:
            assert key not in shown[row] or torch.equal(window.seen[key][0], shown[row][key]), (key, row)
        assert observation is lossy or not any(key.startswith("mask.") for key in window.seen)


@pytest.mark.parametrize("gone", [{mask(FRONT): torch.zeros(2, 1)}, None])
def test_no_frame_is_shown_that_was_missing_nor_what_came_before_it(gone):
    frame_stack = FrameStack(LAGS)
    for number in range(4):
        frame_stack.see(observation(number, 2))
    lost = observation(4, 2)
    frame_stack.see(lost | gone if gone else {key: value for key, value in lost.items() if key != FRONT})
    for number, expected in ((5, [5, 5, 5]), (6, [6, 5, 5]), (7, [7, 6, 5]), (8, [8, 7, 5])):
        assert frame_stack.see(observation(number, 2))[FRONT][0, :, 0, 0, 0].tolist() == expected


def test_before_the_first_frame_there_is_the_first_frame():
    frame_stack = FrameStack(LAGS)
    seen = frame_stack.see(observation(5, 2))[FRONT]
    assert seen.shape == (2, 3, 4, 5, 3)
    assert all(torch.equal(seen[:, i], observation(5, 2)[FRONT]) for i in range(3))


def test_one_environments_reset_leaves_the_others_alone():
    frame_stack = FrameStack(LAGS)
    for number in range(4):
        seen = frame_stack.see(observation(number, 2))[FRONT]
    assert seen[:, :, 0, 0, 0].tolist() == [[3, 2, 0], [4, 3, 1]]
    frame_stack.forget(torch.tensor([True, False]))
    assert frame_stack.see(observation(4, 2))[FRONT][:, :, 0, 0, 0].tolist() == [[4, 4, 4], [5, 4, 2]]
    assert frame_stack.see(observation(5, 2))[FRONT][:, :, 0, 0, 0].tolist() == [[5, 4, 4], [6, 5, 3]]


def test_another_number_of_environments_begins_anew():
    frame_stack = FrameStack(LAGS)
    frame_stack.see(observation(0, 2))
    assert frame_stack.see(observation(9, 3))[FRONT].shape[0] == 3


def test_it_goes_on_from_what_was_saved():
    one, other = FrameStack(LAGS), FrameStack(LAGS)
    for number in range(4):
        one.see(lossy(number))
    assert one.lost[FRONT].all()
    other.load_state_dict({name: t.clone() for name, t in one.state_dict().items()})
    for number in range(4, 6):
        assert torch.equal(one.see(observation(number))[FRONT], other.see(observation(number))[FRONT])


def test_what_was_missing_is_said_in_a_window_and_only_there():
    replay = Replay(20, 1, SENSES, 1, lags=LAGS)
    replay.start(0, of(observation(0), 0))
    for number in range(1, 5):
        seen = of(observation(number), 0)
        if number == 3:
            del seen[STATE_KEY]
            seen[mask(FRONT)] = torch.zeros(1)
        replay.add(0, torch.zeros(1), 0.0, seen, False)
    window = window_at(replay, torch.tensor([0]), torch.tensor([1]), 3, 1)
    assert window.seen[mask(STATE_KEY)][:, 0, 0].tolist() == [1, 1, 0, 1]
    assert window.seen[mask(FRONT)][:, 0, 0].tolist() == [1, 1, 0, 1]
    assert window.seen[mask(LANGUAGE_KEY)][:, 0, 0].tolist() == [1, 1, 1, 1]
    assert window.seen[STATE_KEY][:, 0, 0].tolist() == [1, 2, 0, 4]
    before = window_at(replay, torch.tensor([0]), torch.tensor([0]), 1, 1)
    assert mask(STATE_KEY) not in before.seen


def test_what_is_missing_does_not_show_what_the_ring_held_before():
    replay = Replay(4, 1, SENSES, 1, lags=LAGS)
    replay.start(0, of(observation(1), 0))
    for _ in range(8):
        replay.add(0, torch.zeros(1), 0.0, {STATE_KEY: torch.ones(2)}, False)
    assert not replay.seen[FRONT].any()


def test_a_sentence_is_kept_once_and_frames_once():
    replay = Replay(50, 1, SENSES, 1, lags=LAGS)
    replay.start(0, of(observation(0), 0))
    for number in range(1, 40):
        replay.add(0, torch.zeros(1), 0.0, of(observation(number), 0), False)
    saved = replay.state_dict()
    assert saved["sentences"].shape == (3, 3)
    assert saved[FRONT].shape == (1, 40, 4, 5, 3)
    other = Replay(50, 1, SENSES, 1, lags=LAGS)
    other.load_state_dict({name: t.clone() for name, t in saved.items()})
    one, two = (window_at(r, torch.tensor([0]), torch.tensor([20]), 4, 2) for r in (replay, other))
    assert all(torch.equal(one.seen[key], two.seen[key]) for key in SENSES)
