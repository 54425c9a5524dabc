"""Laws of training from several senses at once: resumed, it is the run itself; what was missing is remembered so."""

import functools
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from policies.nearest_frames import NearestFrames
from policies.storage.checkpoint import load_model, read_spec
from policies.storage.folders import FolderError, write_folder
from policies.storage.tensors import flat, tensor_bytes
from policies.text_encoder import Words
from worldmodel.replay import window_at
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY

FRONT, ABOVE = "observation.images.front", "observation.images.above"
SENTENCES = ("stay in the middle", "go to the left")


class Shown(gymnasium.Wrapper):
    """A Slide that is also drawn, as a bar at its place and as one that is as long as it is fast, and told what to do;
    every third of the first frames is lost."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict(
            {
                STATE_KEY: env.observation_space[STATE_KEY],
                FRONT: spaces.Box(0, 255, (16, 24, 3), np.uint8),
                "mask.images.front": spaces.Box(0, 1, (1,), np.bool_),
                ABOVE: spaces.Box(0, 255, (40, 16, 3), np.uint8),
                LANGUAGE_KEY: spaces.Text(30),
            }
        )

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        self.words = SENTENCES[int(observation[STATE_KEY][0] > 0)]
        return self._show(observation), info

    def step(self, action):
        observation, *rest = self.env.step(action)
        return self._show(observation), *rest

    def _show(self, observation):
        frame = np.zeros((16, 24, 3), np.uint8)
        frame[:, int(11.5 * (observation[STATE_KEY][0] + 1))] = 200
        lost, above = self.unwrapped.clock % 3 == 2, np.full((40, 16, 3), 30, np.uint8)
        above[: int(20 * (observation[STATE_KEY][1] + 1))] = 200
        seen = {
            FRONT: frame * (not lost),
            "mask.images.front": np.array([not lost]),
            ABOVE: above,
            LANGUAGE_KEY: self.words,
        }
        return observation | seen


def shown(toys, *limits):
    """A vector of them."""
    return gymnasium.vector.SyncVectorEnv(
        [functools.partial(lambda limit: Shown(toys.Slide(limit)), limit) for limit in limits],
        autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
    )


def advance(toys, trainer, steps):
    """Run to so many control steps; the metrics of the episodes that ended on the way."""
    return [repr(end.metrics) for end in toys.run(trainer, steps)]


@pytest.fixture
def make(toys):
    """Makes trainers of one or two such environments."""
    from worldmodel.settings import VisionConfig

    vision = VisionConfig(patch=8, width=8, frame_lags=(0, 2))
    return lambda limits, weights=0: toys.trainer(
        shown(toys, *limits), weights=weights, vision=vision, modality_dropout=0.4, random_shift_px=2
    )


@pytest.mark.parametrize("limits", [(9,), (7, 12)])
def test_a_run_resumed_is_the_run_itself(make, toys, tmp_path, limits):
    whole = make(limits)
    seen = advance(toys, whole, 26)
    path = toys.save(whole, tmp_path)
    after = advance(toys, whole, 44)
    assert seen and after and whole.learner.updates > 10

    resumed = make(limits, weights=3)
    toys.resume(path, resumed)
    assert advance(toys, resumed, 44) == after
    one, other = flat(whole.state_dict()), flat(resumed.state_dict())
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_what_was_seen_is_what_is_learned_from(make, toys):
    trainer = make((9,))
    advance(toys, trainer, 30)
    replay, words = trainer.replay, Words()
    vectors = words.encode(SENTENCES)
    for row in range(int(replay.filled[0]) - 1):
        window = window_at(replay, torch.tensor([0]), torch.tensor([row]), 1, 1).seen
        place = window.values[STATE_KEY][0, 0, 0]
        assert any(torch.equal(window.values[LANGUAGE_KEY][0, 0], vector) for vector in vectors)
        here = bool(window.present[FRONT][0, 0])
        lit = window.values[FRONT][0, 0, 0].amax((0, 2)).nonzero().flatten().tolist()
        assert lit == ([int(11.5 * (float(place) + 1))] if here else [])
    lost = ~replay.present[0, : int(replay.filled[0]), list(replay.seen).index(FRONT)]
    assert 5 < int(lost.sum()) < 15


def test_the_agent_sees_what_the_replay_shows_at_every_step(make, toys):
    """Also in the first steps that it acts in, of which the frames before are those of the seeding."""
    trainer, shown = make((9,)), {}
    see = trainer.agent.frames.see

    def noting(observation):
        shown[int(trainer.replay.head[0])] = see(observation)
        return shown[int(trainer.replay.head[0])]

    trainer.agent.frames.see = noting
    advance(toys, trainer, 16)
    assert len(shown) == 16 > trainer.config.seed_steps
    for row, seen in shown.items():
        window = window_at(trainer.replay, torch.tensor([0]), torch.tensor([row]), 1, 1)
        assert torch.equal(window.seen.values[FRONT][0], seen.values[FRONT]), row


def test_a_checkpoint_says_what_it_perceives(make, toys, tmp_path):
    trainer = make((9,))
    advance(toys, trainer, 12)
    path = toys.save(trainer, tmp_path)
    spec = read_spec(path)
    frames = {FRONT: (16, 24, 3), ABOVE: (40, 16, 3)}
    assert spec.senses == {STATE_KEY: (3,), **frames, LANGUAGE_KEY: (Words.size,)}
    model = load_model(path, spec)
    seen = model.preprocess(trainer.agent.frames.see(trainer.episodes.now))
    assert torch.equal(model.encode(seen), trainer.learner.acting.encode(seen))
    assert spec.sentences == ("go on",)


def defect(*_):
    """What is no fault of a file."""
    raise ValueError("a defect")


def test_a_damaged_replay_is_said_in_one_line_and_a_missing_one_is_done_without(
    make, toys, tmp_path, monkeypatch, capsys
):
    from configs.runs.evaluation import Evaluation
    from configs.runs.loading import Loaded

    trainer = make((9,))
    advance(toys, trainer, 12)
    path = toys.save(trainer, tmp_path)
    spec = read_spec(path)
    model, file = load_model(path, spec), path / "replay.safetensors"

    def memories():
        loaded = Loaded(SimpleNamespace(model=model), None, spec, path)
        return Evaluation(None, None, loaded, None).memories

    assert set(memories().agreement()) == {"state", "images.front", "images.above", "language"}
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), whole.replace(b'"head"', b'"haed"')):
        file.write_bytes(damaged)
        with pytest.raises(FolderError, match=r"replay\.safetensors: damaged"):
            memories()
    saved = trainer.replay.state_dict()
    del saved["head"]
    write_folder(path, {file.name: tensor_bytes(saved)}, {})
    with pytest.raises(FolderError, match=r"replay\.safetensors: head is missing$"):
        memories()
    saved = trainer.replay.state_dict()
    write_folder(path, {file.name: tensor_bytes(saved | {FRONT: saved[FRONT][:, :, 1:]})}, {})
    with pytest.raises(FolderError, match=r"replay\.safetensors: not what this checkpoint's model saw \(.*"):
        memories()
    write_folder(path, {file.name: tensor_bytes(saved)}, {})
    monkeypatch.setattr(NearestFrames, "of", defect)
    with pytest.raises(ValueError, match="a defect") as caught:
        memories()
    assert not isinstance(caught.value, FolderError)
    capsys.readouterr()
    file.unlink()
    assert memories() is None
    assert capsys.readouterr().err.startswith(f"{file}: not there, so neither the senses' agreement nor")
