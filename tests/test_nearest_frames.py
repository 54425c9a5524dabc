"""Laws of remembered moments: the nearest to a latent is that of itself, and what agrees wholly agrees by 1."""

import dataclasses

import numpy as np
import pytest
import torch

from configs.runs.film import CAPTION, GAP, HEIGHT, MISSING, TILE, WIDTH, Reel
from policies.agent import Agent
from policies.nearest_frames import NearestFrames, imagined, nearest
from policies.tokens.curves import Curve
from worldmodel.observation import Observation
from worldmodel.planner import Planner
from worldmodel.replay import Replay, window_at
from worldmodel.senses import STATE_KEY, stacked
from worldmodel.settings import PlannerConfig, VisionConfig

FRONT = "observation.images.front"
SENSES = {STATE_KEY: (3,), FRONT: (16, 16, 3)}
WIDE, TALL = "observation.images.wide", "observation.images.tall"
VISION = VisionConfig(patch=8, width=8, frame_lags=(0, 1))


@pytest.fixture
def replay():
    """Forty moments, all different."""
    g = torch.Generator().manual_seed(0)
    replay = Replay(60, 1, SENSES, 2, lags=VISION.frame_lags)

    def seen():
        frame = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8, generator=g)
        return Observation.of(SENSES, {STATE_KEY: torch.randn(1, 3, generator=g), FRONT: frame})

    replay.start(torch.tensor([True]), seen())
    for _ in range(40):
        replay.add(seen(), torch.zeros(1, 2), torch.zeros(1), torch.tensor([False]))
    return replay


@pytest.fixture
def model(toys):
    return toys.tiny_model(SENSES, vision=VISION)


def test_a_moment_is_nearest_to_its_own_latent(model, replay):
    memories = NearestFrames.of(replay, model, 30)
    assert memories.latents.shape == (30, 16)
    assert torch.equal(memories.expected(FRONT, memories.latents), memories.frames[FRONT])


def test_only_what_a_camera_saw_is_expected_of_it(model, replay):
    replay.present[0, ::2, list(SENSES).index(FRONT)] = False
    half = NearestFrames.of(replay, model, 200)
    saw = half.there[FRONT]
    assert 0.2 < saw.float().mean() < 0.8 and half.there[STATE_KEY].all()
    at = nearest(half.latents, half.latents, saw)
    assert saw[at].all() and torch.equal(half.expected(FRONT, half.latents), half.frames[FRONT][at])
    assert torch.equal(half.frames[FRONT][at][saw], half.frames[FRONT][saw])
    replay.present[0, :, list(SENSES).index(FRONT)] = False
    assert NearestFrames.of(replay, model, 9).expected(FRONT, half.latents).shape == (0, 16, 16, 3)


def test_the_latent_of_a_moment_is_what_the_agent_would_have_had(model, replay):
    memories = NearestFrames.of(replay, model, 12)
    rows = {replay.seen[FRONT][0, row].numpy().tobytes(): row for row in range(41)}
    for frame, latent in zip(memories.frames[FRONT], memories.latents, strict=True):
        row = torch.tensor([rows[frame.numpy().tobytes()]])
        seen = window_at(replay, torch.tensor([0]), row, 1, 1).seen.map(lambda x: x[0])
        assert torch.allclose(model.encode(model.preprocess(seen))[0], latent, atol=1e-6)
        state = Observation.of(stacked(SENSES, 2), {STATE_KEY: seen.values[STATE_KEY]})
        only = model.encode(model.preprocess(state))[0]
        assert any(torch.allclose(only, alone, atol=1e-6) for alone in memories.alone[STATE_KEY])


def test_agreement_is_of_the_moments_in_which_a_sense_was_there_and_not_alone(model, replay):
    memories = NearestFrames.of(replay, model, 200)
    whole = memories.agreement()
    same = dataclasses.replace(memories, alone=dict.fromkeys(SENSES, memories.latents))
    assert same.agreement() == {"state": 1.0, "images.front": 1.0}
    other = dataclasses.replace(memories, alone=dict.fromkeys(SENSES, memories.latents.roll(7, 0)))
    assert all(abs(value) < 0.2 for value in other.agreement().values())
    assert all(memories.beside[key].all() for key in SENSES)
    at = list(SENSES).index(FRONT)
    replay.present[0, ::2, at] = False
    dark = NearestFrames.of(replay, model, 200)
    here = dark.beside[FRONT]
    assert 0.2 < here.float().mean() < 0.8
    assert torch.equal(here, dark.beside[STATE_KEY])  # the state was alone where the camera was dark
    assert dark.agreement() == pytest.approx(whole, abs=0.15)
    replay.present[0, :, at] = False
    assert NearestFrames.of(replay, model, 200).agreement() == {}


def below(reel, seen):
    """The strip below the scene."""
    return reel.show(np.zeros((HEIGHT, WIDTH, 3), np.uint8), seen)[HEIGHT:]


def test_a_strip_shows_the_cameras_the_masks_and_what_is_expected(model, replay, toys):
    config = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=1, horizon=3)
    curve = Curve.of_token(toys.token_settings(1), 2)
    agent = Agent(model, curve, Planner(model, 0.9, config), torch.Generator().manual_seed(0))
    memories = NearestFrames.of(replay, model, 20)
    reel = Reel(agent, 0.04, memories)
    values = {STATE_KEY: torch.zeros(1, 3), FRONT: torch.full((1, 16, 16, 3), 77, dtype=torch.uint8)}
    seen = Observation.of(SENSES, values)
    before = below(reel, seen)
    assert (before[20:90, 10:80] == 77).all() and (before[20:, 100:] == 255).all()  # no plan yet: nothing expected
    agent.act(seen)
    after = below(reel, seen)
    expected = memories.expected(FRONT, imagined(model, agent.plan.latent[0], agent.plan.tokens[:, 0]))
    for n, remembered in enumerate(expected):
        tile = after[16 + 2 : 96 : 5, 4 + 84 * (n + 1) + 2 : 84 * (n + 2) : 5]
        assert n < 3 and np.array_equal(tile, remembered.numpy())
    agent.decision = dataclasses.replace(agent.decision, by_policy=torch.ones(1, dtype=torch.bool))
    of_policy = below(reel, seen)  # whose token is all that is followed
    assert np.array_equal(of_policy[:, : 4 + 84 * 2], after[:, : 4 + 84 * 2])
    assert (of_policy[:, 4 + 84 * 2 :] == 255).all()
    lost = below(reel, Observation.of(SENSES, values, {FRONT: torch.tensor([False])}))
    assert (lost[17, 10] == MISSING).all() and not (after[17, 10] == MISSING).all()


def test_each_camera_has_a_row_in_its_proportions(toys):
    """Wherever its agent remembers nothing as well."""
    model = toys.tiny_model({STATE_KEY: (3,), WIDE: (20, 40, 3), TALL: (40, 10, 3)}, vision=VISION)
    agent = Agent(model, Curve.of_token(toys.token_settings(1), 2), None, torch.Generator().manual_seed(0))
    values = {key: torch.full((1, *model.senses[key]), 71, dtype=torch.uint8) for key in (WIDE, TALL)}
    shown = below(Reel(agent, 0.04), Observation.of(model.senses, values))
    assert shown.shape == (2 * (TILE + CAPTION), WIDTH, 3)
    for row, (height, width) in zip(np.split(shown, 2), ((40, 80), (80, 20)), strict=True):
        lit = (row == 71).all(-1)[CAPTION:]  # below the words
        assert lit.sum() == lit[:height, GAP : GAP + width].sum() == height * width
