"""Laws of what a user adds by name: each example of the pages runs as it stands; nothing else becomes code."""

import csv
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import semagram
import torch

from configs.reporting import fail
from configs.train import train
from worldmodel import registry
from worldmodel.errors import UserError
from worldmodel.flops import update_gflop
from worldmodel.learner import Learner
from worldmodel.losses import METRICS
from worldmodel.mppi import PlanFault, mppi, rollout
from worldmodel.planner import Planner
from worldmodel.settings import LearningConfig, PlannerConfig

EXAMPLES = Path(__file__).parents[1] / "docs/examples"
PENDULUM = ("task=gym", "task.id=Pendulum-v1")
SHORT = ("task.max_control_steps=30", "steps=120", "seed_steps=40", "evaluation.episodes=1", "checkpoint.every=60")
SHORT += ("learning.updates_per_token=0.25",)
OWN = {
    "loss": (*PENDULUM, "learning.losses={apart: 0.5}"),
    "planner": (*PENDULUM, "planner.algorithm=shooting"),
    "encoder": ("task=pendulum-swingup", "senses=[images.main]", "image_size=16", "model.encoder=cnn"),
    "exploration": (*PENDULUM, "noise=fading"),
    "replay": (*PENDULUM, "replay.sampler=recent"),
    "environment": ("task=gym", "task.id=Rail-v0", "task.wrappers=[frugal]"),
}


@pytest.mark.parametrize("name", OWN)
def test_an_example_of_the_pages_trains_changes_the_numbers_and_resumes_to_the_bit(toys, tmp_path, name):
    file = EXAMPLES / f"own_{name}.py"
    assert len(file.read_text().splitlines()) <= 40
    own = [*toys.tiny_keys, *SHORT, f"plugins=[{file}]", *OWN[name]]
    train(own, tmp_path / "own")
    metrics = (tmp_path / "own/metrics.csv").read_text()
    train([key.replace("steps=120", "steps=60") for key in own], tmp_path / "half")
    train([f"resume={tmp_path / 'half'}", "steps=120", f"plugins=[{file}]"])
    if name == "planner":
        evaluated = semagram.evaluate(tmp_path / "half", tmp_path / "evaluated", episodes=1, plugins=[file])
        assert evaluated["imagined_per_plan"] == 2 * 8
    assert (tmp_path / "half/metrics.csv").read_text().splitlines()[-1] == metrics.splitlines()[-1]
    plain = [key for key in own if key.partition("=")[0] not in SETTINGS]
    train(plain, tmp_path / "plain")
    assert (tmp_path / "plain/metrics.csv").read_text() != metrics
    if name == "loss":
        rows = [row for row in csv.DictReader(metrics.splitlines()) if row["loss_apart"]]
        assert rows and all(0 < float(row["loss_apart"]) <= 4 for row in rows)  # 4 groups: at most 4 symbols agree


SETTINGS = {"learning.losses", "planner.algorithm", "model.encoder", "noise", "replay.sampler", "task.wrappers"}


@pytest.mark.parametrize("setting", sorted(SETTINGS - {"learning.losses", "task.wrappers"}))
def test_an_unknown_name_is_refused_in_one_line_and_nothing_is_written(tmp_path, setting):
    words = [sys.executable, "-m", "configs.commands", "train", f"{setting}=nobody", f"hydra.run.dir={tmp_path}/run"]
    ended = subprocess.run(words, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1 and f"{setting}=nobody" in ended.stderr
    assert not any(tmp_path.iterdir())


def test_a_checkpoint_that_names_what_is_not_registered_is_refused(toys, tmp_path):
    registry.register("planner", "gone", lambda *a: None)
    config = PlannerConfig(algorithm="gone")
    registry._registered["planner"].pop("gone")
    with pytest.raises(UserError, match="planner=gone: one of mppi"):
        Planner(toys.tiny_model(), 0.9, config)


def test_only_a_kind_and_a_new_identifier_can_be_registered():
    for kind, name, own in (
        *[("magic", "x", print), ("planner", "mppi", print), ("noise", "not a name", print)],
        *[("loss", name.removeprefix("loss_"), print) for name in METRICS if name.startswith("loss_")],
    ):
        with pytest.raises(UserError):
            registry.register(kind, name, own)
    with pytest.raises(UserError, match=r"^register\('planner', 'short'\): it is called with \(search, root, .*late\)"):
        registry.register("planner", "short", lambda search, root: None)
    with pytest.raises(UserError, match="no such file"):
        registry.load(["nowhere.py"])
    with pytest.raises(UserError, match="no such module"):
        registry.load(["nowhere_at_all"])


def test_a_score_is_added_to_each_imagined_reward(toys):
    model, config = toys.tiny_model(), PlannerConfig(horizon=3, samples=8, policy_samples=2, elites=4)
    plain, scored = (Planner(model, 0.9, config, score=score) for score in (None, lambda z, w, after: 2 * after[:, 0]))
    root, plans = torch.rand(2, 16), torch.rand(3, 2, 5, model.points) * 2 - 1
    (_, was), (_, now) = (rollout(planner.search, root, plans) for planner in (plain, scored))
    z, factor, gained = root.repeat_interleave(5, 0), torch.ones(10), torch.zeros(10)
    for w in plans.flatten(1, 2):
        z, _, continues = model.step(z, w)
        gained, factor = gained + factor * 2 * z[:, 0], factor * 0.9 * continues
    assert torch.allclose(now - was, gained.view(2, 5), atol=1e-5)
    after = model.step(root, plans[0, :, 0])[0]
    rewards = [planner.imagine(root, plans[0, :, 0])[1] for planner in (plain, scored)]
    assert torch.allclose(rewards[1] - rewards[0], 2 * after[:, 0], atol=1e-6)


def test_the_cost_of_an_update_includes_registered_losses(toys):
    registry.register("loss", "product", lambda inputs: (inputs.latents @ inputs.latents.mT).mean())
    plain = LearningConfig(batch_size=8, horizon=2)
    learners = [Learner(toys.tiny_model(), 0.9, config) for config in (plain, replace(plain, losses={"product": 1.0}))]
    cost = [update_gflop(learner) for learner in learners]
    forward = 2 * 3 * 8 * 16 * 8 / 1e9  # of latents (3, 8, 16) with each other; backward, as much for either side
    assert cost[1] - cost[0] == pytest.approx(3 * forward)


def test_a_run_whose_plugins_are_not_named_again_is_refused_with_the_command_that_does(toys, tmp_path, monkeypatch):
    file = EXAMPLES / "own_planner.py"
    own = [*toys.tiny_keys, *SHORT, *OWN["planner"], f"plugins=[{file}]", "steps=60"]
    train(own, tmp_path / "run")
    monkeypatch.setitem(registry._registered, "planner", {})
    command = re.escape(f"semagram-train resume={tmp_path}/run ") + f".*plugins=.*{file}"
    with pytest.raises(UserError, match=f"planner.algorithm=shooting: .*it began with plugins: {command}"):
        train([f"resume={tmp_path / 'run'}"])
    monkeypatch.setattr(registry, "loaded", [])
    line = rf"planner.algorithm=shooting: .*; it was trained with plugins=\[{file}\]$"
    with pytest.raises(UserError, match=line) as told:
        semagram.load(tmp_path / "run", plugins=["math"])
    assert told.value.__suppress_context__ and told.value.__cause__ is None and len(told.traceback) == 2
    found = semagram.load(tmp_path / "run", planned=False, plugins=[str(file)])
    assert found.loaded.spec.planner.algorithm == "shooting"


@pytest.mark.parametrize("text", ["def (", "import nothing_of_the_name", "1 / 0", "import sys; sys.exit(3)"])
def test_a_module_that_cannot_be_imported_is_one_line_with_its_place_and_can_be_mended(tmp_path, text):
    file = tmp_path / "mine.py"
    file.write_text(f"x = 1\n{text}\n")
    with pytest.raises(UserError, match=rf"^plugins=\[{file}\]: .*line \d+") as caught:
        registry.load([str(file)])
    assert "\n" not in str(caught.value)
    file.write_text("import sys\n")
    registry.load([str(file)])


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (lambda plan: None, "NoneType; a Plan of tokens"),
        (
            lambda plan: replace(plan, **{x: getattr(plan, x)[..., :1] for x in ("tokens", "std", "elites")}),
            r"\(3, 2, 1\); a Plan of tokens \(T, 2, 2\)",
        ),
        (lambda plan: replace(plan, std=plan.std * torch.nan), "its plan is not finite"),
    ],
)
def test_a_plan_of_ones_own_is_checked_and_its_model_steps_are_counted(toys, made, error):
    model, config = toys.tiny_model(), PlannerConfig(horizon=3, samples=8, policy_samples=2, elites=4, iterations=1)
    registry.register("planner", "own", mppi)
    config = replace(config, algorithm="own")
    plan = Planner(model, 0.9, config).plan(model.blank(2), None, torch.Generator().manual_seed(0))
    assert plan.model_calls == 3 * 8  # of one search: the candidates' steps
    registry.register("planner", "own", lambda *a: made(mppi(*a)))
    with pytest.raises((UserError, PlanFault), match=error):
        Planner(model, 0.9, config).plan(model.blank(2), None, torch.Generator().manual_seed(0))


FRAIL = """
from semagram import *
from torch import nn

left = {}

def spend(kind):
    left[kind] = left.get(kind, 10**9) - 1
    if not left[kind]:
        raise KeyError("mine")

@register("loss", "frail")
def loss(inputs):
    spend("loss")
    return inputs.latents.mean()

@register("planner", "frail")
def planner(*given):
    spend("planner")
    return mppi(*given)

@register("sampler", "frail")
def sampler(*given):
    spend("sampler")
    return sample_windows(*given)

@register("noise", "frail")
class Draws(Noise):
    def __init__(self, generator):
        super().__init__("mixed", generator)

    def draw(self, *given, **more):
        spend("noise")
        return super().draw(*given, **more)

def callback(row):
    spend("callback")
"""
NET = """
from semagram import register
from torch import nn
import sys

class Net(nn.Linear):
    def forward(self, x):
        next(m for name, m in sys.modules.items() if "plugin_frail" in name).spend("encoder")
        return super().forward(x)

@register("encoder", "frail")
def encoder(key, shape, config, dtype):
    return Net(shape[0], config.width)
"""


@pytest.fixture(scope="module")
def frail(toys, tmp_path_factory):
    """The keys of a run whose parts are all its user's, their module, and the metrics of the whole run."""
    home = tmp_path_factory.mktemp("frail")
    for name, text in (("frail", FRAIL), ("net", NET)):
        (home / f"{name}.py").write_text(text)
    keys = [*toys.tiny_keys, *PENDULUM, *SHORT, f"plugins=[{home}/frail.py,{home}/net.py]", "evaluation.every=80"]
    keys += [f"{key}=frail" for key in ("planner.algorithm", "model.encoder", "noise", "replay.sampler")]
    train([*keys, "learning.losses={frail: 0.1}"], home / "whole")
    module = next(module for name, module in sys.modules.items() if "plugin_frail" in name)
    return [*keys, "learning.losses={frail: 0.1}"], module, (home / "whole/metrics.csv").read_bytes()


N_TH = {"loss": 18, "noise": 70, "encoder": 80, "callback": 3}
"""The call of each part at which a run of 120 steps has a checkpoint, at 60."""


@pytest.mark.parametrize("kind", N_TH)
def test_a_part_that_raises_is_named_last_and_the_run_goes_on_once_it_is_mended(frail, tmp_path, kind):
    keys, module, metrics = frail
    named = {kind: f"{kind} frail", "callback": "callback"}[kind]
    for after, rest in (
        (1, "nothing was saved yet"),
        (N_TH[kind], f"go on .* semagram-train resume={tmp_path}/run .plugins=.*frail.py"),
    ):
        module.left[kind] = after
        with pytest.raises(KeyError, match="mine") as caught:
            train(keys, tmp_path / "run", module.callback)
        assert re.search(f"^semagram: your {named} raised this; {rest}", caught.value.__notes__[-1])
        with pytest.raises(KeyError):
            fail(caught.value)
    module.left.clear()
    train([f"resume={tmp_path}/run"], callback=module.callback)
    assert (tmp_path / "run/metrics.csv").read_bytes() == metrics
    assert not [*(tmp_path / "run").rglob(".*")]
