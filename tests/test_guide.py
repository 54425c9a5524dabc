"""Laws of what a person says to an agent: wishes, what they compile into, and the artefact on disk."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from envs.settings import TaskConfig
from policies.guidance import compiling, wishes
from policies.guidance.compiling import Memory
from policies.guidance.judge import Judge
from policies.guidance.storage import (
    SPEC,
    TENSORS,
    GuidanceSpec,
    Reading,
    load_guidance,
    save_guidance,
    sum_of_model,
)
from policies.settings import Wish
from policies.storage.checkpoint import write_tensors
from policies.storage.folders import FolderError
from worldmodel.errors import UserError
from worldmodel.guidance import Fitted, Guidance, Head
from worldmodel.guidance_fit import Remembered
from worldmodel.probes import Probes, closeness
from worldmodel.settings import Term

WISH = Term("tip.x", 0.08, 0.12), Term("speed", 2.0)


def made(model, folder, terms=WISH, **more):
    """A guidance of these terms with random probes, what it says, and a checkpoint of its model."""
    folder.mkdir()
    write_tensors(folder / "model.safetensors", model.state_dict())
    names, count = tuple(term.quantity for term in terms), len(terms)
    low, high = torch.full((count,), -0.25), torch.tensor([0.25, 1e6])[:count]
    weight = torch.randn(count, model.config.latent) * (high - low)[:, None]
    probes = Probes(names, weight, torch.randn(count) * high, torch.full((count,), 0.99), low, high, high - low)
    read = {name: Reading(0.99, float(low[i]), float(high[i]), "m") for i, name in enumerate(names)}
    spec = GuidanceSpec("be there", terms, 0.5, {"way": "want"}, sum_of_model(folder), read)
    return Guidance(terms, probes, **more), spec


@pytest.fixture
def model(toys):
    return toys.tiny_model(3, 2, latent=128)


def test_a_guidance_comes_back_as_it_was_and_is_small(model, tmp_path):
    guidance, spec = made(model, tmp_path / "checkpoint")
    save_guidance(tmp_path / "g", guidance, spec)
    loaded, said = load_guidance(tmp_path / "g", tmp_path / "checkpoint", model)
    assert said == spec and loaded.terms == WISH and loaded.fitted is None
    z = torch.randn(50, 128).unflatten(1, (-1, 4)).softmax(-1).flatten(1)
    span = guidance.probes.high - guidance.probes.low
    assert ((loaded.probes(z) - guidance.probes(z)).abs() / span).max() < 0.02
    for w in (None, torch.full((50, 2), 0.1)):
        assert torch.allclose(loaded.reward(z, w=w), guidance.reward(z, w=w), atol=0.02)
    assert not torch.allclose(loaded.reward(z, w=w), loaded.reward(z), atol=0.02)
    assert json.loads((tmp_path / "g" / SPEC).read_text())["terms"][1] == ["speed", 2.0, None]
    assert sum((tmp_path / "g" / name).stat().st_size for name in (SPEC, TENSORS)) <= 1024


def test_what_was_fitted_and_a_reward_of_its_own_come_back_too(model, toys, tmp_path):
    other, z = toys.tiny_model(3, 2, seed=1, latent=128), torch.rand(9, 128)
    head = Head(torch.randn(128) / 30, 0.5, 0.9)
    guidance, spec = made(model, tmp_path / "checkpoint", (), fitted=Fitted(other.value, other.actor), head=head)
    save_guidance(tmp_path / "g", guidance, spec)
    loaded, _ = load_guidance(tmp_path / "g", tmp_path / "checkpoint", model)
    assert torch.equal(loaded.fitted.actor(z), other.actor(z))
    assert torch.equal(loaded.fitted.value(z, torch.zeros(9, 2)), other.value(z, torch.zeros(9, 2)))
    assert torch.allclose(loaded.reward(z), head(z), atol=0.01) and math.isclose(loaded.head.r2, 0.9, abs_tol=1e-3)
    assert not any(p.requires_grad for p in loaded.fitted.value.parameters())


def test_an_artefact_of_another_checkpoint_damaged_or_foreign_is_refused_in_one_line(model, toys, tmp_path):
    guidance, spec = made(model, tmp_path / "checkpoint")
    _, other = made(toys.tiny_model(3, 2, seed=1, latent=128), tmp_path / "other")
    folder = tmp_path / "g"
    for change, says in (
        (lambda: None, "made for another checkpoint"),
        (lambda: (folder / TENSORS).write_bytes(b"x"), "damaged"),
        ((folder / SPEC).unlink, "missing"),
        (lambda: folder.rename(tmp_path / "away"), "no such folder"),
    ):
        shutil.rmtree(folder, ignore_errors=True)
        save_guidance(folder, guidance, spec)
        change()
        with pytest.raises(FolderError, match=says) as refused:
            load_guidance(folder, tmp_path / "other", model)
        assert "\n" not in str(refused.value) and str(folder) in str(refused.value)
    assert other.checkpoint != spec.checkpoint
    (tmp_path / "mine").mkdir()
    save_guidance(tmp_path / "mine", guidance, spec)
    for taken, says in ((tmp_path / "mine", "already there"), (tmp_path / "mine" / SPEC / "g", "is no folder")):
        with pytest.raises(FileExistsError, match=says):
            save_guidance(taken, guidance, spec)


UNITS = {"tip.x": "m", "tip.y": "m", "speed": "m/s", "cos[0]": "", "torso_height": "m"}


def terms_of(text):
    return wishes.parse(text.split(","), UNITS)


NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)


@given(st.lists(st.tuples(st.sampled_from([*UNITS]), NUMBERS, NUMBERS, st.sampled_from("<>=")), min_size=1, max_size=4))
def test_what_a_wish_is_written_as_parses_to_the_same_terms(said):
    made = []
    for name, a, b, sign in {each[0]: each for each in said}.values():
        low, high = {"<": (-math.inf, a), ">": (a, math.inf), "=": (min(a, b), max(a, b) + abs(a) + 1)}[sign]
        made.append(Term(name, low, high))
    assert terms_of(wishes.written(made)) == tuple(made)
    assert all(term.quantity in wishes.sentence(made, UNITS) for term in made)


def test_a_wish_means_what_it_says():
    assert terms_of("tip.x = 0.10 +- 0.02, tip.y=-.05 m±.02 m") == (
        Term("tip.x", 0.08, 0.12),
        Term("tip.y", -0.07, -0.03),
    )
    assert terms_of("speed > 1.5, 1>=cos[0]") == (Term("speed", 1.5), Term("cos[0]", high=1.0))
    assert terms_of("1 m/s < speed <= 2m/s") == terms_of("2 > speed > 1") == terms_of("speed > 1, speed < 2")
    assert wishes.sentence(terms_of("speed = 2.0 +- 0.3, torso_height > 1.1"), UNITS) == (
        "keep speed at 2 ± 0.3 m/s and torso_height above 1.1 m"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("speed = 2", r"'speed = 2': how far may it be off\? speed = 2 \+- 0\.1"),
        ("tip.x > 1, fast", r"term 2 of 2, 'fast': not of the form name = 1 \+- 0\.1"),
        ("speed > 1,", "term 2 of 2, '': empty"),
        ("sped > 1", "sped: no such quantity; near it: speed.*show=quantities"),
        ("speed > 1 km/h", "speed is in m/s, not km/h"),
        ("cos[0] > 1 m", r"the unit of cos\[0\] is unknown; without m"),
        ("speed = 1 +- 0", "a number above 0"),
        ("speed > 2, speed < 1", "contradict each other"),
        ("3 < speed < 2", "nothing is above 3 and below 2"),
        ("1 < speed > 2", "point at each other"),
        ("speed > 1e999", "a finite number"),
    ],
)
def test_a_malformed_wish_is_refused_in_one_line_that_says_where(text, says):
    with pytest.raises(UserError, match=says) as refused:
        terms_of(text)
    assert "\n" not in str(refused.value) and str(refused.value).startswith("want=: ")


def test_what_the_latent_does_not_hold_or_nobody_saw_is_refused():
    readings = {"speed": Reading(0.9, 0.0, 3.0, "m/s"), "tip.x": Reading(0.49, 0.0, 1.0, "m")}
    wishes.check(terms_of("speed > 2.9"), readings, False)
    wishes.check(terms_of("speed > 4"), readings, True)
    with pytest.raises(UserError, match=r"speed: never seen; the nearest seen is 3 m/s; beyond=true"):
        wishes.check(terms_of("speed > 4"), readings, False)
    with pytest.raises(UserError, match=r"tip\.x: the latent does not hold it \(R2 0\.49"):
        wishes.check(terms_of("tip.x > 0.5"), readings, True)


def test_a_long_wish_comes_from_a_file(tmp_path):
    (tmp_path / "long.yaml").write_text("sentence: run\nweight: 0.5\nwant:\n  - speed > 2\n  - tip.x < 1, tip.y < 1\n")
    wish = wishes.read(str(tmp_path / "long.yaml"))
    assert wish == wishes.Wish(("speed > 2", "tip.x < 1", " tip.y < 1"), "run", 0.5)
    for text in ("want: speed", "- 1", "want: [a]\nmore: 1", "want: [a]\nweight: 2", "{"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UserError, match=r"^want=.*bad\.yaml: ") as refused:
            wishes.read(str(tmp_path / "bad.yaml"))
        assert "\n" not in str(refused.value)


NAMES = "place", "twice", "wall", "place.velocity", "noise"


@pytest.fixture
def memory():
    """What an agent remembers: 10 episodes of 60 steps; all but the noise is linear in the latent."""
    z = torch.randn(600, 16, generator=torch.Generator().manual_seed(3))
    place, rate, noise = z[:, 0], z[:, 1], torch.randn(600, generator=torch.Generator().manual_seed(4))
    values = torch.stack([place, 2 * place + 1, torch.ones(600), rate, noise], 1)
    remembered = Remembered(z, z[:, :2], z.roll(-1, 0), torch.ones(600))
    count = torch.arange(600)
    return Memory(remembered, values, NAMES, count // 60, count % 60)


def test_a_goal_becomes_few_terms_that_hold_there(memory):
    probes, row = memory.probes(), compiling.moment(memory, 4, 20)
    (term,) = compiling.near(memory.remembered.z[row], probes, memory)
    assert term.quantity == "place" and row == 260  # twice follows from it; the wall stands, the velocity is motion
    held = compiling.fulfilled((term,), memory)
    assert held[row] and 0.01 < float(held.float().mean()) < 0.2
    with pytest.raises(UserError, match=r"^step 60 of episode 4: it has steps 0 to 59"):
        compiling.moment(memory, 4, 60)


def test_examples_become_what_the_good_ones_agree_on(memory, tmp_path):
    good = ((memory.quantities[:, 0] - 1).abs() < 0.1).nonzero()[:, 0]
    bad = (memory.quantities[:, 0] < 0.5).nonzero()[:20, 0]
    lines = [f"{i // 60}, {i % 60}, {kind}" for kind, rows in (("good", good), ("bad", bad)) for i in rows.tolist()]
    (tmp_path / "a.csv").write_text("\n".join(["episode, step, label", *lines]))
    read = compiling.read_examples(str(tmp_path / "a.csv"), memory)
    assert torch.equal(read[0], good) and torch.equal(read[1], bad)
    (term,) = compiling.alike(memory.quantities[good], memory.probes(), memory)
    assert term.quantity in ("place", "twice")
    guidance = Guidance((term,), memory.probes().chosen([term.quantity]))
    rewards = guidance.reward(memory.remembered.z[[*good, *bad]]).numpy()
    assert compiling.auc(rewards, np.arange(len(rewards)) < len(good)) > 0.99
    with pytest.raises(UserError, match="3 good ones; at least 4"):
        compiling.alike(memory.quantities[good[:3]], memory.probes(), memory)
    with pytest.raises(UserError, match="agree on no quantity"):
        compiling.alike(memory.quantities[::7], memory.probes(), memory)
    for text, says in (
        ("1, 2, fine", "episode, step, good or bad"),
        ("ep,st,g", "episode, step, good or bad"),
        ("99, 2, good", "episodes 0 to 9"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(UserError, match=rf"bad\.csv: line 1.*{says}"):
            compiling.read_examples(str(tmp_path / "bad.csv"), memory)
    with pytest.raises(UserError, match="no such quantity was recorded"):
        compiling.read_examples("success", memory)


def test_what_merely_follows_from_what_the_good_examples_share_is_no_wish():
    place, other = torch.rand(2, 5000) * 2
    values = torch.stack([0.5 * place + 0.1 * torch.randn(5000), other, place], 1)  # the first follows from the last
    names, count = ("follows", "other", "place"), torch.arange(5000)
    z, one = torch.zeros(5000, 8), torch.ones(5000)
    memory = Memory(Remembered(z, one[:, None], z, one), values, names, count // 50, count % 50)
    probes = Probes(names, torch.zeros(3, 8), torch.zeros(3), torch.ones(3), values.amin(0), values.amax(0))
    for middle in (0.2, 1.0, 1.8):
        good = ((place - middle).abs() < 0.2).nonzero()[:32, 0]
        (term,) = compiling.alike(values[good], probes, memory)
        assert term.quantity == "place" and term.low < middle < term.high
    both = ((place - 1).abs() < 0.2) & ((other - 1).abs() < 0.2)
    assert {term.quantity for term in compiling.alike(values[both], probes, memory)} == {"place", "other"}


def test_a_reward_is_read_from_the_latent_and_ordered_as_it_was(memory):
    head = compiling.rewarding(lambda q: 5 * q["place"] - q["place.velocity"], memory, "reward=m:f")
    z = memory.remembered.z
    found, true = head(z), 5 * z[:, 0] - z[:, 1]
    assert head.r2 > 0.95 and 0 <= float(found.min()) < 0.05 and 0.95 < float(found.max()) <= 1
    middle = (found > 0.1) & (found < 0.9)
    assert torch.corrcoef(torch.stack([found[middle], true[middle]]))[0, 1] > 0.98
    for function, says in (
        (lambda q: q["noise"], "the latent does not hold it"),
        (lambda q: q["speed"], "no quantity 'speed'; there are place"),
        (lambda q: q["place"][:3], r"returned \(3,\); \(600,\)"),
        (lambda q: 0 * q["place"], "the same reward"),
        (lambda q: 1 / 0, "ZeroDivisionError"),
    ):
        with pytest.raises(UserError, match=f"^reward=m:f: {says}"):
            compiling.rewarding(function, memory, "reward=m:f")


def test_closeness_falls_with_the_distance_wherever_one_is_and_no_term_far_off_hides_the_others():
    terms, spread = (Term("x", -0.1, 0.1), Term("y", 0.9)), torch.tensor([2.0, 2.0])
    x = torch.linspace(0, 1.6, 20)
    for y in (1.0, 0.5, -1.2):  # the last further off than y ever is
        met = closeness(terms, torch.stack([x, torch.full_like(x, y)], -1), spread)
        assert (met.diff() < 0).all() and met.min() >= 0
    assert closeness(terms, torch.tensor([0.0, 1.0]), spread) == 1
    assert closeness(terms, torch.tensor([2.0, -1.1]), spread) == pytest.approx(0.0, abs=0.02)


def test_a_guidance_is_judged_by_what_was_true_in_the_last_tenth_of_each_episode():
    wishes = Wish("a", (Term("x", 0, 1, 2.0), Term("y", 0.5)), 0.75), Wish("b", (Term("y", high=2),), 0.25)
    judge = Judge(wishes, ("y", "x"))
    inside, outside, unknown = [1.0, 0.5], [2.5, 0.5], [np.nan, 0.5]
    episode = np.array([outside] * 18 + [inside, outside], np.float32)
    other = np.array([inside] * 9 + [unknown], np.float32)
    assert judge.satisfied([episode, other]) == (0.25, [0.5, 0.25])
    close = judge.closeness(torch.tensor([inside, outside, unknown]))
    assert close[0, 0] == 1 and close[2].eq(0).all() and 0 < close[1, 1] < 1
    total, each = judge.returns([other])
    assert total == pytest.approx(0.75 * each[0] + 0.25 * each[1]) and each[0] == pytest.approx(9.0)
    with pytest.raises(UserError, match="guidance: z: no quantity here; there are y, x"):
        Judge([Wish("", (Term("z", 0),))], ("y", "x"))


@pytest.fixture(scope="module")
def checkpoint(untaught, tmp_path_factory):
    return untaught(
        tmp_path_factory.mktemp("run") / "checkpoints", TaskConfig("cartpole-swingup", max_control_steps=5), envs=1
    )


def test_the_command_compiles_shows_and_refuses(checkpoint, command, tmp_path):
    run = f"checkpoint={checkpoint}"
    code, out, _ = command("guide", run, "show=quantities")
    table = json.loads(out.splitlines()[-1])
    assert code == 0 and table["slider"].keys() == {"r2", "low", "high", "unit", "note"}
    assert table["slider"]["unit"] == "m" and table["slider"]["note"] == "same as cart_position"
    assert table["cart.y"]["note"] == "constant" and table["cart_position"]["note"] == table["hinge_1"]["note"] == ""
    shown = [line.split()[0] for line in out.splitlines()]
    assert "cart_position" in shown and not {"slider", "cart.y"} & {*shown}
    (tmp_path / "rightward.py").write_text("def right(q):\n    return q['angular_vel']\n")
    code, out, _ = command("guide", run, "want=angular_vel > 0, angular_vel < 9", "updates=2", "out=g", "weight=0.5")
    result = json.loads(out.splitlines()[-1])
    assert code == 0 and result["bytes"] > 1024 and list(result["quantities"]) == ["angular_vel"]
    assert (tmp_path / "g" / SPEC).is_file()
    assert command("guide", run, "reward=rightward:right", "fit=false", "out=h")[0] == 0
    code, out, _ = command("guide", run, "show=g")
    assert code == 0 and "weighs 0.5" in out.splitlines()[-2] and (tmp_path / "g" / "guidance.png").exists()
    for words, says in (
        (["want=speed > 1"], "speed: no such quantity"),
        (["want=cart_position > 0"], "the latent does not hold it"),
        (["want=angular_vel > 99"], "never seen"),
        (["want=cart_position > 1", "goal=x"], "not want and goal"),
        (["via=slider = 1 +- 1 at 1 s"], "no joints' targets or steps"),
        (["goal=x.npz"], "no such .npz"),
        (["goal=.:0:0"], "holds no checkpoint"),
        (["words=qwerty asdf"], "like nothing"),
        (["reward=rightward:left"], "module:function is needed"),
        (["show=nothing"], "no such folder"),
    ):
        code, out, err = command("guide", run, "fit=false", "out=no", *words)
        last = err.splitlines()[-1]
        assert code == 2 and not out and says in last, (words, err)
        assert not (tmp_path / "no").exists()
