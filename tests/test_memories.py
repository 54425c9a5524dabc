"""Laws of remembered moments: the nearest to a latent is that of itself, and what agrees wholly agrees by 1."""

import dataclasses

import numpy as np
import pytest
import torch

from configs.runs.sights import MISSING, Strip
from policies.agent import Agent
from policies.curves import Curve
from policies.memories import Memories, imagined
from worldmodel.planner import Planner
from worldmodel.replay import Replay
from worldmodel.senses import STATE_KEY, mask
from worldmodel.settings import PlannerConfig, VisionConfig
from worldmodel.windows import window_at

FRONT = "observation.images.front"
SENSES = {STATE_KEY: (3,), FRONT: (16, 16, 3)}
WIDE, TALL = "observation.images.wide", "observation.images.tall"
VISION = VisionConfig(patch=8, width=8, lags=(0, 1))


@pytest.fixture
def replay():
    """Forty moments, all different."""
    g = torch.Generator().manual_seed(0)
    replay = Replay(60, 1, SENSES, 2, lags=VISION.lags)

    def seen():
        frame = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=g)
        return {STATE_KEY: torch.randn(3, generator=g), FRONT: frame}

    replay.start(0, seen())
    for _ in range(40):
        replay.add(0, torch.zeros(2), 0.0, seen(), False)
    return replay


@pytest.fixture
def model(toys):
    return toys.tiny_model(SENSES, vision=VISION)


def test_a_moment_is_nearest_to_its_own_latent(model, replay):
    memories = Memories.of(replay, model, 30)
    assert memories.latents.shape == (30, 16)
    for i, at in enumerate(memories.nearest(memories.latents).tolist()):
        assert torch.equal(memories.frames[FRONT][at], memories.frames[FRONT][i])


def test_the_latent_of_a_moment_is_what_the_agent_would_have_had(model, replay):
    memories = Memories.of(replay, model, 12)
    rows = {replay.seen[FRONT][0, row].numpy().tobytes(): row for row in range(41)}
    for frame, latent in zip(memories.frames[FRONT], memories.latents, strict=True):
        row = torch.tensor([rows[frame.numpy().tobytes()]])
        seen = {key: value[0] for key, value in window_at(replay, torch.tensor([0]), row, 1, 1).seen.items()}
        assert torch.allclose(model.encode(seen)[0], latent, atol=1e-6)
        only = model.encode({STATE_KEY: seen[STATE_KEY]})[0]
        assert any(torch.allclose(only, alone, atol=1e-6) for alone in memories.alone[STATE_KEY])


def test_agreement_is_one_where_a_sense_says_all_and_small_where_it_says_nothing(model, replay):
    memories = Memories.of(replay, model, 200)
    same = dataclasses.replace(memories, alone=dict.fromkeys(SENSES, memories.latents))
    assert same.agreement() == {"state": 1.0, "images.front": 1.0}
    other = dataclasses.replace(memories, alone=dict.fromkeys(SENSES, memories.latents.roll(7, 0)))
    assert all(abs(value) < 0.2 for value in other.agreement().values())


def test_agreement_is_of_the_moments_in_which_a_sense_was_there_and_not_alone(model, replay):
    memories = Memories.of(replay, model, 200)
    whole = memories.agreement()
    assert all(memories.beside[key].all() for key in SENSES)
    at = list(SENSES).index(FRONT)
    replay.present[0, ::2, at] = False
    dark = Memories.of(replay, model, 200)
    here = dark.beside[FRONT]
    assert 0.2 < here.float().mean() < 0.8
    assert torch.equal(here, dark.beside[STATE_KEY])  # the state was alone where the camera was dark
    assert dark.agreement() == pytest.approx(whole, abs=0.15)
    replay.present[0, :, at] = False
    assert Memories.of(replay, model, 200).agreement() == {}


def test_a_strip_shows_the_cameras_the_masks_and_what_is_expected(model, replay, toys):
    curve = Curve.of_token(toys.token_settings(1), 2)
    config = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=1, horizon=3)
    agent = Agent(model, curve, Planner(model, 0.9, config), torch.Generator().manual_seed(0))
    memories = Memories.of(replay, model, 20)
    strip = Strip(agent, memories, 0.04, 560)
    frame = np.full((16, 16, 3), 77, np.uint8)
    seen = {STATE_KEY: np.zeros(3, np.float32), FRONT: frame}
    before = strip.show(seen)
    assert before.shape == (strip.height, 560, 3)
    assert (before[20:90, 10:80] == 77).all() and (before[20:, 100:] == 255).all()  # no plan yet: nothing expected
    agent.act({STATE_KEY: torch.zeros(1, 3), FRONT: torch.from_numpy(frame)[None]})
    after = strip.show(seen)
    expected = memories.frames[FRONT][memories.nearest(imagined(model, agent.plan.latent[0], agent.plan.tokens[:, 0]))]
    assert len(expected) == 3
    for n, remembered in enumerate(expected):
        tile = after[16 + 2 : 96 : 5, 4 + 84 * (n + 1) + 2 : 84 * (n + 2) : 5]
        assert np.array_equal(tile, remembered.numpy())
    alone = agent.decision = dataclasses.replace(agent.decision, by_policy=torch.ones(1, dtype=torch.bool))
    of_policy = strip.show(seen)  # whose token is all that is followed
    assert np.array_equal(of_policy[:, : 4 + 84 * 2], after[:, : 4 + 84 * 2])
    assert len(alone.sentence(0)) == 1 and (of_policy[:, 4 + 84 * 2 :] == 255).all()
    lost = strip.show(seen | {mask(FRONT): np.array([False])})
    assert (lost[17, 10] == MISSING).all() and not (after[17, 10] == MISSING).all()


def test_a_frame_in_the_strip_keeps_its_proportions(replay, model, toys):
    memories = Memories.of(replay, model, 5)
    memories.frames.clear()
    memories.frames.update({WIDE: torch.zeros(5, 20, 40, 3), TALL: torch.zeros(5, 40, 10, 3)})
    agent = Agent(model, Curve.of_token(toys.token_settings(1), 2), None, torch.Generator().manual_seed(0))
    seen = {WIDE: np.full((20, 40, 3), 70, np.uint8), TALL: np.full((40, 10, 3), 90, np.uint8)}
    shown = Strip(agent, memories, 0.04, 300).show(seen | {mask(TALL): np.array([False])})[16:]
    wide, tall = (shown == 70).all(-1), ((shown == 90) | (shown == MISSING)).all(-1)
    assert wide.sum() == wide[:40, 4:84].sum() == 40 * 80
    assert tall.sum() == tall[:80, 88:108].sum() == 80 * 20
    assert (shown[[0, 0, 79, 79], [88, 107, 88, 107]] == MISSING).all()
