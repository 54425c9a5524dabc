"""Laws of the training loop: what it remembers, how often it learns, and that a run resumed is the run itself."""

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from policies.storage.tensors import flat
from worldmodel.replay import sample_windows, window_at
from worldmodel.senses import STATE_KEY

LIMITS = {1: (9,), 3: (7, 12, 9)}


def advance(toys, trainer, steps):
    """Run to so many control steps; the episodes that ended on the way, as plain numbers."""
    ends = toys.run(trainer, steps)
    return [(e.episode_return, e.episode_length, {n: repr(v) for n, v in e.metrics.items()}) for e in ends]


def digest(trainer):
    """Everything there is of a trainer, hashed part by part."""
    whole = trainer.state_dict() | {"newest": trainer.learner.model.state_dict()}
    return {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in flat(whole).items()}


def beginnings(replay):
    """The rows at which the first environment's episodes begin."""
    return [0, *(int(row) + 1 for row in replay.final[0, : int(replay.head[0])].nonzero().flatten())]


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("envs", [1, 3])
def test_a_run_resumed_anywhere_is_the_run_itself(toys, tmp_path, envs, length):
    """Saved after every few steps, read into other objects with other weights, run on to the end."""
    saves, end = [range(4, 41, 9), range(6, 41, 9)][envs == 3], 45
    whole = toys.trainer(toys.slides(*LIMITS[envs]), length)
    paths, seen, middle = [], [], 0
    for steps in saves:
        seen += advance(toys, whole, steps)
        paths.append((toys.save(whole, tmp_path), len(seen)))
        middle += bool((whole.episodes.lengths > 0).any())
    seen += advance(toys, whole, end)
    assert middle >= 2 and len(seen) > 2

    unsaved = toys.trainer(toys.slides(*LIMITS[envs]), length)
    assert advance(toys, unsaved, end) == seen
    assert digest(unsaved) == digest(whole)

    for n, (path, before) in enumerate(paths):
        resumed = toys.trainer(toys.slides(*LIMITS[envs]), length, weights=n + 1)
        toys.resume(path, resumed)
        assert advance(toys, resumed, end) == seen[before:]
        assert digest(resumed) == digest(whole)


RESUME = """
import json, runpy, sys
from pathlib import Path
tests = Path(sys.argv[1])
toys = runpy.run_path(str(tests / "conftest.py"))["TOYS"]
laws = runpy.run_path(str(tests / "test_trainer.py"))
trainer = toys.trainer(toys.slides(*laws["LIMITS"][3]), 4, weights=9, precision="bf16")
toys.resume(Path(sys.argv[2]), trainer)
print(json.dumps([laws["advance"](toys, trainer, 51), laws["digest"](trainer)]))
"""


def test_another_process_resumes_to_the_bit(toys, tmp_path):
    """With products in bf16, as they are where a CPU has them."""
    whole = toys.trainer(toys.slides(*LIMITS[3]), 4, precision="bf16")
    advance(toys, whole, 24)
    path = toys.save(whole, tmp_path)
    seen = advance(toys, whole, 51)
    done = subprocess.run(
        [sys.executable, "-c", RESUME, Path(__file__).parent, path],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ends, sums = json.loads(done.stdout.splitlines()[-1])
    assert [tuple(end) for end in ends] == seen
    assert sums == digest(whole)


def test_an_episode_without_an_end_is_resumed_too(toys, tmp_path):
    whole = toys.trainer(toys.slides(None, None))
    assert advance(toys, whole, 30) == []
    path = toys.save(whole, tmp_path)
    advance(toys, whole, 40)
    resumed = toys.trainer(toys.slides(None, None), weights=1)
    toys.resume(path, resumed)
    assert resumed.episodes.lengths.tolist() == [15, 15]
    advance(toys, resumed, 40)
    assert digest(resumed) == digest(whole)


def test_a_full_ring_is_resumed_too(toys, tmp_path):
    whole = toys.trainer(toys.slides(9), capacity=12)
    advance(toys, whole, 40)
    path = toys.save(whole, tmp_path)
    advance(toys, whole, 60)
    resumed = toys.trainer(toys.slides(9), capacity=12, weights=1)
    toys.resume(path, resumed)
    advance(toys, resumed, 60)
    assert digest(resumed) == digest(whole)


@pytest.mark.parametrize("envs", [1, 3])
def test_an_environment_that_does_not_come_back_is_said_and_begun_anew(toys, tmp_path, envs):
    whole = toys.trainer(toys.slides(*LIMITS[envs], memory=True))
    advance(toys, whole, 24)
    path = toys.save(whole, tmp_path)
    resumed, warnings = toys.trainer(toys.slides(*LIMITS[envs], memory=True), weights=1), []
    toys.resume(path, resumed, warnings.append)
    (warning,) = warnings
    assert "not deterministic" in warning and "\n" not in warning
    assert resumed.episodes.lengths.tolist() == [0] * envs
    assert torch.equal(resumed.learner.flat, whole.learner.flat)
    ends = advance(toys, resumed, 60)
    assert ends and all(np.isfinite(value) and length <= 12 for value, length, _ in ends)
    last = window_at(resumed.replay, torch.zeros(1, dtype=torch.long), resumed.replay.head[:1] - 1, 1, 1)
    assert last.seen.values[STATE_KEY].isfinite().all()


def test_an_episode_longer_than_the_replay_is_begun_anew(toys, tmp_path):
    whole = toys.trainer(toys.slides(None), capacity=12)
    advance(toys, whole, 30)
    path = toys.save(whole, tmp_path)
    resumed, warnings = toys.trainer(toys.slides(None), capacity=12), []
    toys.resume(path, resumed, warnings.append)
    assert warnings == ["the running episode is 30 steps long, of which the replay holds 12; new episodes begin"]
    advance(toys, resumed, 40)


def test_the_replay_holds_what_the_environments_did(toys):
    """Every step, its reward, and where the episode stopped; rewards add up to the returns told."""
    trainer = toys.trainer(toys.slides(*LIMITS[3]))
    ends = advance(toys, trainer, 90)
    replay, told = trainer.replay, []
    for env in range(3):
        total, length, held = 0.0, 0, int(replay.filled[env])
        for row in range(held - 1):
            if not replay.final[env, row]:
                total, length = total + float(replay.reward[env, row]), length + 1
            if replay.final[env, row + 1]:  # an episode's last observation, or the present
                told += [(round(total, 4), length)] if length and row + 1 < held - 1 else []
                total, length = 0.0, 0
    assert sorted(told) == sorted((round(value, 4), length) for value, length, _ in ends)
    assert int((~replay.final).sum()) == trainer.steps == 90
    assert replay.action.abs().max() <= 1
    off = replay.seen[STATE_KEY][:, 1:, 0].abs() == 1  # a Slide terminates where it goes off its line, and only there
    happened = ~replay.final[:, :-1]
    assert torch.equal(replay.terminated[:, :-1][happened], off[happened])
    assert 0 < replay.terminated.sum() < len(ends)  # both kinds of end


@pytest.mark.parametrize(("length", "rate"), [(1, 1.0), (4, 1.0), (1, 0.5), (4, 2.0), (1, 0.0)])
def test_it_learns_so_many_times_a_decision(toys, length, rate):
    trainer = toys.trainer(toys.slides(9), length, updates_per_token=rate)
    for n in range(1, 21):
        trainer.step()
        assert trainer.steps == n
        due = 0 if n < trainer.config.seed_steps else int(n * rate / length)
        assert trainer.learner.updates == due


def test_it_counts_the_repeats_of_an_action(toys):
    trainer = toys.trainer(toys.slides(None, None))
    assert trainer.step() == trainer.step() == []
    assert (trainer.steps, trainer.env_steps) == (4, 8)


def test_the_normaliser_sees_every_state_once(toys):
    trainer = toys.trainer(toys.slides(*LIMITS[3]))
    before = float(trainer.learner.model.normaliser.count)
    ends = advance(toys, trainer, 60)
    assert float(trainer.learner.model.normaliser.count) - before == 60 + 3 + len(ends)


@pytest.mark.parametrize("length", [1, 4])
def test_a_batch_is_its_window_in_tokens(toys, length):
    trainer = toys.trainer(toys.slides(*LIMITS[3]), length)
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


def test_the_first_steps_are_random_and_then_the_agents(toys):
    trainer = toys.trainer(toys.slides(None))
    acted, act = [], trainer.agent.act

    def noting(seen, own):
        acted.extend([trainer.steps] * bool(own.any()))
        return act(seen, own)

    trainer.agent.act = noting
    advance(toys, trainer, 12)
    assert acted == [8, 9, 10, 11]


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
    assert 0.5 < max(deviations) <= 1.0
    usual = begun(12, sparse_reward_threshold=0)
    assert max(usual.agent.std for _ in range(40) if usual.step() is not None) <= 0.5
    path = toys.save(trainer, tmp_path)
    resumed = begun(12)
    toys.resume(path, resumed)
    assert resumed.agent.wide
    often = begun(3)
    assert not any(often.agent.wide for _ in range(40) if often.step() is not None)


@pytest.mark.parametrize("length", [1, 4])
def test_what_the_planner_chose_is_remembered_where_it_did(toys, length):
    trainer, chosen = toys.trainer(toys.slides(None), length), []
    plan = trainer.agent.planner.plan

    def noting(*args, **kwargs):
        chosen.append(plan(*args, **kwargs))
        return chosen[-1]

    trainer.agent.planner.plan = noting
    advance(toys, trainer, 16)
    assert len(chosen) == 8 // length
    for n in range(16):
        window = window_at(trainer.replay, torch.tensor([0]), torch.tensor([n]), 1, length)
        planned = n >= 8 and n % length == 0
        assert bool(window.was_planned) == planned
        if planned:
            assert torch.equal(window.planned_token, chosen[(n - 8) // length].tokens[0])


def test_seeds_make_runs(toys):
    runs = []
    for _ in range(2):
        trainer = toys.trainer(toys.slides(*LIMITS[3]))
        advance(toys, trainer, 30)
        runs.append(digest(trainer))
    assert runs[0] == runs[1]
    other = toys.trainer(toys.slides(*LIMITS[3]))
    other.generator.manual_seed(2)
    advance(toys, other, 30)
    assert digest(other)["loop/generator"] != runs[0]["loop/generator"]
    assert digest(other)["replay/action"] != runs[0]["replay/action"]


def test_an_episodes_observations_are_its_own(toys):
    """The last observation of one episode and the first of the next both stand in the replay, apart."""
    trainer = toys.trainer(toys.slides(5))
    advance(toys, trainer, 20)
    replay = trainer.replay
    firsts = beginnings(replay)
    assert len(firsts) > 2
    for row in firsts:
        assert replay.seen[STATE_KEY][0, row, 2] == 0  # the clock of a fresh episode
        if row:
            assert replay.seen[STATE_KEY][0, row - 1, 2] != 0
    assert torch.equal(trainer.episodes.now.values[STATE_KEY][0], replay.seen[STATE_KEY][0, int(replay.head[0])])
    places = {float(replay.seen[STATE_KEY][0, row, 0]) for row in firsts}
    assert len(places) == len(firsts)  # each from a seed of its own


def test_no_token_outlives_its_episode(toys):
    trainer = toys.trainer(toys.slides(5), length=4)
    advance(toys, trainer, 40)
    later = [row for row in beginnings(trainer.replay)[:-1] if row > 10]
    assert len(later) > 3
    assert all(trainer.replay.was_planned[0, row] for row in later)
