"""Laws of the training loop: what it remembers, how often it learns, and that a run resumed is the run itself."""

import functools
import hashlib
import itertools
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from policies.storage.checkpoint import flat, load_model, read_spec, tensor_bytes
from policies.storage.folders import FolderError, write_folder
from policies.text_encoder import Words
from worldmodel.replay import sample_windows, window_at
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY
from worldmodel.settings import VisionConfig

FRONT, ABOVE = "observation.images.front", "observation.images.above"
SENTENCES = ("stay in the middle", "go to the left")
LIMITS = (7, 12, 9)


class Shown(gymnasium.Wrapper):
    """A Slide that is also drawn, as a bar at its place and as one that is as long as it is fast, with an instruction;
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
    """Makes trainers of such environments side by side, from the seed of their weights."""
    envs = [functools.partial(lambda limit: Shown(toys.Slide(limit)), limit) for limit in limits]
    off, vision = gymnasium.vector.AutoresetMode.DISABLED, VisionConfig(patch=8, width=8, frame_lags=(0, 2))

    def make(weights=0):
        vector = gymnasium.vector.SyncVectorEnv(envs, autoreset_mode=off)
        return toys.trainer(vector, 1, weights, vision=vision, modality_dropout=0.4, random_shift_px=2)

    return make


def advance(toys, trainer, steps):
    """Run to so many control steps; the episodes that ended on the way, as plain numbers."""
    ends = toys.run(trainer, steps)
    return [{name: repr(value) for name, value in end.items()} for end in ends]


def digest(trainer):
    """Everything there is of a trainer, hashed part by part."""
    whole = trainer.state_dict() | {"newest": trainer.learner.model.state_dict()}
    return {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in flat(whole).items()}


def beginnings(replay):
    """The rows at which the first environment's episodes begin."""
    return [0, *(int(row) + 1 for row in replay.final[0, : int(replay.head[0])].nonzero().flatten())]


def makers(toys):
    """Makes trainers, by name, from the seed of their weights."""
    slides = toys.slides
    return {
        "several": lambda weights=0: toys.trainer(slides(3, 12, 9), 4, weights, precision="bf16"),
        "endless": lambda weights=0: toys.trainer(slides(None, None), 1, weights),
        "full ring": lambda weights=0: toys.trainer(slides(9), 1, weights, capacity=12),
        "senses": lambda weights=0: shown(toys, 7, 12)(weights),
    }


@pytest.mark.parametrize("name", ["several", "endless", "full ring", "senses"])
def test_a_run_resumed_anywhere_is_the_run_itself(toys, tmp_path, name):
    """Saved in the middle of episodes, read into other objects with other weights, run on to the end."""
    make = makers(toys)[name]
    whole, seen, paths, middle = make(), [], [], False
    for steps in (8, 26):
        seen += advance(toys, whole, steps)
        middle |= bool((whole.episodes.lengths > 0).any())
        paths.append((toys.save(whole, tmp_path), len(seen)))
    seen += advance(toys, whole, 45)
    assert middle and whole.learner.updates > 4 and (len(seen) > 2 or name == "endless")
    for n, (path, before) in enumerate(paths):
        resumed = toys.resume(path, make(n + 1))
        assert advance(toys, resumed, 45) == seen[before:]
        assert digest(resumed) == digest(whole)


def test_a_run_stopped_between_two_updates_and_resumed_is_the_run_itself(toys, tmp_path):
    whole, stopped = (toys.trainer(toys.slides(7), updates_per_token=4.0) for _ in range(2))
    seen, calls = advance(toys, whole, 30), iter(range(1000))
    stopped.stopping = lambda: next(calls) >= 5
    before = []
    while stopped.learner.updates < 5:
        before += advance(toys, stopped, stopped.steps + 1)
    assert stopped.learner.updates == 5 < int(4 * stopped.steps)
    resumed = toys.resume(toys.save(stopped, tmp_path), toys.trainer(toys.slides(7), weights=1, updates_per_token=4.0))
    resumed.learn()
    assert before + advance(toys, resumed, 30) == seen and digest(resumed) == digest(whole)


def test_a_run_saved_before_a_metric_was_added_goes_on_and_that_is_empty_until_the_next_update(toys, tmp_path):
    whole = toys.trainer(toys.slides(7), updates_per_token=0.1)
    advance(toys, whole, 24)
    saved = whole.state_dict()
    saved["loop"]["metrics"] = saved["loop"]["metrics"][1:]
    resumed = toys.trainer(toys.slides(7), updates_per_token=0.1)
    resumed.load_state_dict(saved, pytest.fail)
    ends = [end["loss_value"] for end in toys.run(resumed, 45)]
    assert np.isnan(ends[0]) and np.isfinite(ends[-1])
    advance(toys, whole, 45)
    assert digest(resumed) == digest(whole)


@pytest.mark.parametrize(("limits", "memory"), [((7, 12), True), ((None, None), False)])
def test_what_cannot_be_resumed_is_said_and_begun_anew(toys, tmp_path, limits, memory):
    """An environment that does not come back to where it was; an episode of which the replay holds too little."""
    make = lambda: toys.trainer(toys.slides(*limits, memory=memory), capacity=200 if memory else 12)  # noqa: E731
    whole, warnings = make(), []
    advance(toys, whole, 24)
    resumed = toys.resume(toys.save(whole, tmp_path), make(), warnings.append)
    (warning,) = warnings
    said = "not deterministic" if memory else "the running episode is 12 steps long, of which the replay holds 6"
    assert said in warning and warning.endswith("; new episodes begin") and "\n" not in warning
    assert resumed.episodes.lengths.tolist() == [0, 0]
    assert torch.equal(resumed.learner.flat, whole.learner.flat)
    ends = toys.run(resumed, 70)
    assert bool(ends) == memory and all(
        np.isfinite(end["episode_return"]) and end["episode_length"] <= 12 for end in ends
    )


def test_the_replay_holds_what_the_environments_did(toys):
    """Every step, its reward, and where the episode stopped; rewards add up to the returns of its episodes."""
    trainer = toys.trainer(toys.slides(*LIMITS))
    ends = toys.run(trainer, 90)
    replay, ends_stored = trainer.replay, []
    for env in range(3):
        total, length, held = 0.0, 0, int(replay.filled[env])
        for row in range(held - 1):
            if not replay.final[env, row]:
                total, length = total + float(replay.reward[env, row]), length + 1
            if replay.final[env, row + 1]:  # an episode's last observation, or the present
                ends_stored += [(round(total, 4), length)] if length and row + 1 < held - 1 else []
                total, length = 0.0, 0
    assert sorted(ends_stored) == sorted((round(end["episode_return"], 4), end["episode_length"]) for end in ends)
    assert int((~replay.final).sum()) == trainer.steps == 90
    assert replay.action.abs().max() <= 1
    off = replay.seen[STATE_KEY][:, 1:, 0].abs() == 1  # a Slide terminates where it goes off its line, and only there
    happened = ~replay.final[:, :-1]
    assert torch.equal(replay.terminated[:, :-1][happened], off[happened])
    assert 0 < replay.terminated.sum() < len(ends)  # both kinds of end


@pytest.mark.parametrize(("length", "rate"), [(1, 1.0), (4, 2.0), (1, 0.0)])
def test_it_learns_so_many_times_a_token_and_sees_every_state_once(toys, length, rate):
    trainer = toys.trainer(toys.slides(9), length, updates_per_token=rate)
    before, ends = float(trainer.learner.model.normaliser.count), 0
    for n in range(1, 21):
        ends += len(trainer.step())
        assert (trainer.steps, trainer.env_steps) == (n, 2 * n)
        due = 0 if n < trainer.config.seed_steps else int(n * rate / length)
        assert trainer.learner.updates == due
    assert float(trainer.learner.model.normaliser.count) - before == 20 + 1 + ends


@pytest.mark.parametrize("length", [1, 4])
def test_a_batch_is_its_window_in_tokens(toys, length):
    trainer = toys.trainer(toys.slides(*LIMITS), length)
    advance(toys, trainer, 30)
    window = sample_windows(trainer.replay, 64, 3, length, trainer.generator)
    batch = trainer._batch(window)
    written_out = sum(0.9**n * window.reward[:, :, n] for n in range(length))
    assert torch.allclose(batch.reward, written_out)
    assert torch.equal(batch.continues, 1 - window.terminated.float())
    assert torch.equal(batch.valid, window.valid.float())
    assert torch.equal(batch.seen.values[STATE_KEY], window.seen.values[STATE_KEY])
    if length == 1:
        assert torch.equal(batch.token, window.action.squeeze(2))
    assert torch.equal(batch.planned_token[window.was_planned], window.planned_token[window.was_planned])
    assert torch.equal(batch.planned_token[~window.was_planned], batch.token[0][~window.was_planned])
    assert 0 < window.was_planned.sum() < 64
    executed = trainer.curve.decode(batch.token)
    known = window.valid
    assert (known & window.terminated).any()
    left = (executed - window.action)[known].square().mean().sqrt()
    assert left < 0.7 * window.action[known].square().mean().sqrt()  # windows begin anywhere: a fit, not a copy


def test_a_token_that_ends_in_termination_is_the_motion_that_was_made(toys):
    """Nothing was done after it: an action that was always the same is the token of just that action."""
    trainer = toys.trainer(toys.slides(None), 4)
    nothing = toys.observed({STATE_KEY: torch.zeros(1, 3)})
    trainer.replay.start(torch.tensor([True]), nothing)
    for last in (False, True):
        trainer.replay.add(nothing, torch.full((1, 2), 0.8), torch.zeros(1), torch.tensor([last]))
    window = window_at(trainer.replay, torch.tensor([0]), torch.tensor([0]), 1, 4)
    batch = trainer._batch(window)
    assert batch.valid.all() and not batch.continues.any()
    assert torch.allclose(batch.token, torch.full_like(batch.token, 0.8), atol=1e-5)


def test_it_explores_all_of_the_range_while_rewards_are_rare(toys, tmp_path):
    """An episode of rare rewards is explored widely from its beginning to its end, also where it is resumed in it."""

    def begun(rare: int, sparse_reward_threshold: float = 0.1):
        """A trainer whose reward is 0 but at every `rare`-th step."""
        steps = itertools.count(1)
        env = gymnasium.wrappers.vector.TransformReward(toys.slides(6), lambda r: 0.0 * r + (next(steps) % rare == 0))
        return toys.trainer(env, weights=5, loop={"sparse_reward_threshold": sparse_reward_threshold})

    trainer, wide, deviations = begun(12), [], []  # with it 0 of 6 steps, 1 of 12, 1 of 18, ... differ
    for _ in range(40):
        trainer.step()
        wide.append(trainer.agent.wide)
        deviations.append(trainer.agent.std)
    assert not any(wide[:5]) and all(wide[5:])  # at first nothing is known yet
    usual = begun(12, sparse_reward_threshold=0)
    narrow = [usual.agent.std for _ in range(40) if usual.step() is not None]
    assert np.mean(deviations) > np.mean(narrow) and not usual.agent.wide
    path = toys.save(trainer, tmp_path)
    resumed = begun(12)
    toys.resume(path, resumed)
    assert resumed.agent.wide
    often = begun(3)
    assert not any(often.agent.wide for _ in range(40) if often.step() is not None)


@pytest.mark.parametrize("length", [1, 4])
def test_what_the_planner_chose_is_remembered_where_it_did_and_before_that_all_is_random(toys, length):
    trainer, chosen = toys.trainer(toys.slides(None), length), {}
    plan = trainer.agent.planner.plan

    def noting(*args, **kwargs):
        found = plan(*args, **kwargs)
        chosen[trainer.steps] = found.tokens[0]
        return found

    trainer.agent.planner.plan = noting
    advance(toys, trainer, 16)
    assert [*chosen] == [*range(8, 16, length)]  # after the seed steps
    for n in range(16):
        window = window_at(trainer.replay, torch.tensor([0]), torch.tensor([n]), 1, length)
        assert bool(window.was_planned) == (n in chosen)
        assert n not in chosen or torch.equal(window.planned_token, chosen[n])


def test_episodes_stand_apart_in_the_replay_and_no_token_outlives_its_own(toys):
    trainer = toys.trainer(toys.slides(5), length=4)
    advance(toys, trainer, 40)
    replay, firsts = trainer.replay, beginnings(trainer.replay)
    state = replay.seen[STATE_KEY][0]
    assert len(firsts) > 6
    for row in firsts:
        assert state[row, 2] == 0 and (not row or state[row - 1, 2] != 0)  # the clock of a fresh episode
    assert torch.equal(trainer.episodes.now.values[STATE_KEY][0], state[int(replay.head[0])])
    assert len({float(state[row, 0]) for row in firsts}) == len(firsts)  # each from a seed of its own
    later = [row for row in firsts[:-1] if row > 10]
    assert len(later) > 3 and all(replay.was_planned[0, row] for row in later)


def test_what_was_seen_is_what_is_learned_from(toys):
    trainer = shown(toys, 9)()
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


def test_a_damaged_replay_is_one_line_and_a_missing_one_is_done_without(toys, tmp_path, capsys):
    from configs.runs.evaluation import Evaluation
    from configs.runs.loading import Loaded

    trainer = shown(toys, 9)()
    advance(toys, trainer, 12)
    path = toys.save(trainer, tmp_path)
    spec = read_spec(path)
    loaded = Loaded(SimpleNamespace(model=load_model(path, spec)), None, spec, path)
    memories = lambda: Evaluation(None, None, loaded, None).memories  # noqa: E731
    assert set(memories().agreement()) == {"state", "images.front", "images.above", "language"}
    file, saved = path / "replay.safetensors", trainer.replay.state_dict()
    for lacking, message in (
        ({name: value for name, value in saved.items() if name != "head"}, "head is missing$"),
        (saved | {FRONT: saved[FRONT][:, :, 1:]}, r"not what this checkpoint's model saw \("),
    ):
        write_folder(path, {file.name: tensor_bytes(lacking)}, {})
        with pytest.raises(FolderError, match=rf"replay\.safetensors: {message}"):
            memories()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(FolderError, match=r"replay\.safetensors: damaged"):
        memories()
    capsys.readouterr()
    file.unlink()
    assert memories() is None
    assert capsys.readouterr().err.startswith(f"{file}: not there, so neither the senses' agreement nor")
