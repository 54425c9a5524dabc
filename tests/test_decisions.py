"""Laws of seeing a decision: effects that add up and predict interventions, a trace that survives, a page."""

import csv
import json
import os
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field

from configs.runs.evaluation import Evaluation
from configs.runs.explaining import Why, why
from configs.schema import EvaluateConfig, WhyConfig
from envs.settings import TaskConfig
from policies.decisions import trace
from policies.decisions.graph import Explainer, Usual
from policies.decisions.schema import as_json
from policies.guidance.compiling import equal
from policies.settings import GuidanceKeys
from worldmodel.attribution import Inputs, effects, follow, groups, influence, prune, scores
from worldmodel.errors import UserError
from worldmodel.guidance import Probes
from worldmodel.mppi import Search, Step, rollout
from worldmodel.planner import search_in
from worldmodel.senses import STATE_KEY
from worldmodel.settings import PlannerConfig

PLANNING = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=2, horizon=3, td_check_steps=24)


@pytest.fixture
def joined_model(toys):
    """A model of joined tokens, so that a state holds the end of a curve, too."""
    token = toys.token_settings(4).__class__(4, 3, 2, joined=True)
    return toys.tiny_model({STATE_KEY: (3,)}, 6, token=token)


def explainer(model):
    size, g = model.config.latent, torch.Generator().manual_seed(5)
    probes = Probes(
        ("height", "speed"),
        torch.randn(2, size, generator=g),
        torch.zeros(2),
        torch.tensor([0.9, 0.8]),
        -torch.ones(2),
        torch.ones(2),
    )
    usual = Usual(torch.full((size,), 0.25), torch.zeros(model.points), torch.zeros(1, model.config.width), probes)
    return Explainer(model, 0.95, usual, ["a", "b", "c"])


def linear_search(size=6):
    """A model in which everything is linear."""
    g = torch.Generator().manual_seed(0)
    turn, push, pay, worth = (torch.randn(*shape, generator=g) for shape in ((size, size), (size, 2), (size,), (size,)))

    def step(state, points):
        return Step(points, state @ turn.T / 3 + points @ push.T, state @ pay, 1 + 0 * state.sum(1))

    return Search(lambda root, noise: noise, step, lambda state: state @ worth, 0.9)


def linear_effects(search, size=6, horizon=4):
    g = torch.Generator().manual_seed(1)
    root, tokens = torch.randn(size, generator=g), torch.randn(horizon, 2, generator=g)
    usual = torch.randn(size, generator=g), torch.zeros(2)
    inputs = Inputs(lambda x: x, root, torch.zeros(size), torch.eye(size, dtype=torch.bool))
    path = follow(search, root[None], tokens[:, None])
    member = groups(size, 2, size)
    return path, tokens, usual, member, effects(search, path, tokens, member, usual, inputs)


def test_a_group_has_the_numbers_of_one_simplex_and_the_end_of_a_curve_is_one_more():
    member = groups(12, 4, 14)
    z = torch.randn(12).unflatten(0, (4, 3)).softmax(0).flatten()
    assert torch.allclose(member[:3, :12].float() @ z, torch.ones(3))
    assert member.sum(0).eq(1).all() and member[3].nonzero()[:, 0].tolist() == [12, 13]


def test_a_plan_followed_has_the_return_that_the_planner_gives_it(joined_model):
    search = search_in(joined_model, 0.95)
    root, plans = torch.rand(1, 18), torch.rand(4, 1, 5, 6) * 2 - 1
    _, returns = rollout(search, root, plans)
    found = follow(search, root.expand(5, -1), plans[:, 0])
    assert torch.allclose(found.total, returns[0], atol=1e-5)
    paid = (found.of_reward * found.reward).sum(1) + found.of_value * found.value
    assert torch.allclose(paid, found.total, atol=1e-5)


def test_in_a_linear_world_effects_are_exact_add_up_and_shares_are_in_proportion():
    search = linear_search()
    path, tokens, usual, member, found = linear_effects(search)
    steps, count = found.of_group.shape
    held = torch.zeros(steps * count, steps, 6, dtype=torch.bool)
    for k in range(len(held)):
        held[k, k // count] = member[k % count]
    roots, plans = path.states[:, 0].expand(len(held), -1), tokens[:, None].expand(-1, len(held), -1)
    for share in (1.0, 0.5):
        lost = path.total - follow(search, roots, plans, held, usual[0], share).total
        assert torch.allclose(lost, share * found.of_group.flatten(), atol=1e-4)
    every = held.view(steps, count, steps, 6)[1].any(0)[None]  # all groups of the first imagined step
    lost = path.total - follow(search, roots[:1], plans[:, :1], every, usual[0]).total
    assert torch.allclose(lost, found.of_group[1].sum(), atol=1e-4)
    assert found.not_conserved < 1e-5
    into = found.group_to_group[0].sum() + found.group_to_end[0].sum()
    assert torch.allclose(into, found.of_group[0].sum(), atol=1e-4)


def test_effects_of_a_net_add_up_and_predict_small_interventions(joined_model, toys):
    explaining = explainer(joined_model)
    seen = toys.observed({STATE_KEY: torch.randn(1, 3)})
    tokens = torch.rand(3, 6) * 2 - 1
    tokens[:, :2] = torch.cat([torch.zeros(1, 2), tokens[:-1, 4:]])
    really = torch.rand(3, 16)
    found = explaining.explain(seen, torch.zeros(2), tokens, really)
    assert found.effects.not_conserved < 1e-4
    assert found.effects.of_group.shape == (4, 5)
    measures = found.measures
    assert measures["pearson"] > 0.95 and measures["spearman_held_out"] > 0.7
    assert 0 < measures["replacement"] < 1 and 0 < measures["completeness"] < 1
    exactly = explaining.explain(seen, torch.zeros(2), tokens, found.path.states[0, 1:, :16])
    both = *exactly.scores, *exactly.pruned_scores
    assert both == pytest.approx((1, 1, 1, 1), abs=1e-4)  # what came is what was imagined
    whole = replace(found, kept=torch.ones_like(found.kept), lines=found.weight != 0)
    assert whole.pruned_scores == pytest.approx(found.scores)


def test_influence_follows_all_paths_and_pruning_keeps_what_matters():
    weight = torch.zeros(5, 5)  # 0 and 1 lead to 2, that and 3 to 4
    weight[2, 0], weight[2, 1], weight[4, 2], weight[4, 3] = 3.0, -1.0, 2.0, 2.0
    ends, none = torch.tensor([0.0, 0, 0, 0, 1]), torch.zeros(5, dtype=torch.bool)
    _, total = influence(weight, ends)
    assert total.tolist() == pytest.approx([0.375, 0.125, 0.5, 0.5, 0])
    first = torch.tensor([True, True, False, True, False])
    always = torch.tensor([False, False, False, False, True])
    kept, lines = prune(weight, ends, always, first, 0.9, 1.0)
    assert kept.tolist() == [True, False, True, True, True] and int(lines.sum()) == 3
    few, _ = prune(weight, ends, always, first, 1.0, 1.0, most=2)
    assert int(few.sum()) <= 2
    error = none.clone()
    error[1] = True
    assert scores(weight, ends, first & ~error, error)[0] == pytest.approx(0.875)
    assert scores(weight, ends, first & ~error, error)[1] == pytest.approx((0.75 * 0.5 + 0.5 + 1 + 0.5) / 2.5, abs=0.1)


class Fields(BaseModel):
    """Fields as circuit-tracer 0.5 and Neuronpedia's schema 1.0.0 document them, and no others."""

    model_config = ConfigDict(extra="forbid")


class NodeFields(Fields):
    """A node."""

    node_id: str = Field(pattern=r"^(E|\d+)_\d+_\d+$|^0_\d+_\d+$")
    feature: int = Field(ge=-1)
    layer: str = Field(pattern=r"^(E|\d+)$")
    ctx_idx: int = Field(ge=0)
    feature_type: Literal["cross layer transcoder", "mlp reconstruction error", "embedding", "logit"]
    token_prob: float = Field(ge=0, le=1)
    is_target_logit: bool
    run_idx: int
    reverse_ctx_idx: int
    jsNodeId: str = Field(pattern=r"^(E|L|\d+)_\d+-\d+$")
    clerp: str = Field(min_length=1)
    influence: float | None = Field(ge=0, le=1.001)
    activation: float | None


class Link(Fields):
    """An edge."""

    source: str
    target: str
    weight: float = Field(allow_inf_nan=False)


class QParams(Fields):
    """How a front end opens it."""

    pinnedIds: list[str]
    supernodes: list[list[str]]
    linkType: Literal["both"]
    clickedId: str
    sg_pos: str


class Metadata(Fields):
    """What it is of."""

    slug: str = Field(pattern=r"^[\w-]+$")
    scan: str = Field(min_length=1)
    transcoder_list: list[str]
    prompt_tokens: list[str] = Field(min_length=1)
    prompt: str
    node_threshold: float | None = Field(ge=0, le=1)
    schema_version: Literal[1]
    pruning_settings: dict[Literal["node_threshold", "edge_threshold"], float]
    info: dict[Literal["description", "creator_name", "creator_url", "generator"], str | dict[str, str]]


class Graph(Fields):
    """The whole file."""

    metadata: Metadata
    qParams: QParams
    nodes: list[NodeFields]
    links: list[Link]


def test_the_json_has_what_both_front_ends_read(joined_model, toys):
    explaining = explainer(joined_model)
    found = explaining.explain(toys.observed({STATE_KEY: torch.randn(1, 3)}), torch.zeros(2), torch.rand(3, 6))
    graph = json.loads(json.dumps(as_json(found, explaining.inputs, "s", "scan", "a prompt")))
    Graph.model_validate(graph, strict=True)
    prompt, ids = graph["metadata"]["prompt_tokens"], [node["node_id"] for node in graph["nodes"]]
    assert len(set(ids)) == len(ids) == int(found.kept.sum())
    assert {end for link in graph["links"] for end in (link["source"], link["target"])} <= {*ids}
    for node in graph["nodes"]:
        assert 0 <= node["ctx_idx"] < len(prompt)
        if node["feature_type"] == "logit":
            assert "(p=" in node["clerp"]
    seen = [node["feature"] for node in graph["nodes"] if node["feature_type"] == "cross layer transcoder"]
    assert seen and max(map(seen.count, seen)) <= 2 / 3 * len(prompt)  # else circuit-tracer's drops the node


@pytest.fixture(scope="module")
def checkpoint(untaught, tmp_path_factory):
    return untaught(tmp_path_factory.mktemp("run"), TaskConfig("cartpole-swingup", max_control_steps=12), seed_steps=8)


@pytest.fixture(scope="module")
def page(checkpoint, tmp_path_factory):
    """A page, its graph and the command's last line."""
    out = tmp_path_factory.mktemp("page") / "why.html"
    config = WhyConfig(run=str(checkpoint), episode=1, step=6, around=1, episodes=2, out=str(out))
    return out, json.loads(json.dumps(why(config, out.parent)))


def test_an_evaluation_keeps_a_trace_that_its_episodes_can_be_joined_to(checkpoint, tmp_path):
    config = EvaluateConfig(checkpoint=str(checkpoint), episodes=2, compile="false", trace=True)
    Evaluation.begin(config).run(tmp_path)
    table = pq.read_table(tmp_path / "trace")  # as DuckDB and pandas read it
    length = 4  # of a token
    found = sorted(zip(*(table[key].to_pylist() for key in ("episode_index", "frame_index")), strict=True))
    assert {episode for episode, _ in found} == {0, 1}
    assert [frame for episode, frame in found if episode == 1] == list(range(0, 12, length))


def test_the_command_writes_a_page_and_a_graph_of_the_decision_followed_then(page):
    out, result = page
    assert result["page"] == str(out) and result["step"] == 4  # the token that covers step 6
    graph = json.loads(out.with_suffix(".json").read_text())
    assert len(graph["nodes"]) == result["nodes"] <= 60
    text = out.read_text()
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
    assert len(text) < 1_500_000
    assert {"seconds", "pearson", "spearman", "replacement", "completeness"} <= result.keys()


def test_the_decision_on_the_page_is_that_of_the_evaluation(checkpoint, page, tmp_path):
    Evaluation.begin(EvaluateConfig(checkpoint=str(checkpoint), episodes=2, compile="false", trace=True)).run(tmp_path)
    rows, _ = trace.read(tmp_path / "trace")
    (row,) = [row for row in rows if (row["episode_index"], row["frame_index"]) == (1, 4)]
    moment = json.loads(page[0].read_text().partition('id="data">')[2].partition("</script>")[0])["moments"][1]
    assert np.allclose(np.ravel(moment["tokens"]), row["tokens"], atol=1e-3)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"step": 99}, "step=99: episode 1 has 12 steps"),
        ({"out": "x.txt"}, "out=x.txt: a file ending in .html"),
        ({"out": "/proc/x.html", "run": "nowhere"}, "out=/proc/x.html: No such file.*; in a folder that can be"),
        ({"guidance": GuidanceKeys("nowhere")}, "nowhere"),
    ],
)
def test_a_wrong_question_is_refused_in_a_line(checkpoint, keys, line, tmp_path):
    usual = {"run": str(checkpoint), "episode": 1, "episodes": 2, "out": str(tmp_path / "p.html")}
    with pytest.raises(UserError, match=line):
        why(WhyConfig(**usual | keys), tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_run_that_is_still_writing_is_explained_by_its_newest_whole_checkpoint(checkpoint, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoint, folder / "000000008")
    (folder / f".000000016.{os.getppid()}").mkdir()  # as `aside_of` names what a process is writing
    config = WhyConfig(run=str(folder.parent), episodes=1, around=0, out=str(tmp_path / "p.html"))
    assert why(config, tmp_path)["step"] == 0
    assert str(folder / "000000008") in (tmp_path / "p.html").read_text()


def test_a_page_whose_name_a_folder_has_is_refused_before_anything_is_read(tmp_path):
    for name in ("p.html", "q.json"):
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=f"out=.*{name[0]}.html: .* no folder of that name"):
            why(WhyConfig(run="nowhere", out=str(tmp_path / f"{name[0]}.html")), tmp_path)


def test_what_was_imagined_stands_beside_what_came_for_the_quantities_that_were_to_change_most():
    still, moves, far = torch.zeros(1, 4), torch.arange(4.0)[None], -2 * torch.arange(4.0)[None]
    names, one = ("still", "moves", "far"), torch.ones(3)
    asked = Why.__new__(Why)
    probes = Probes(names, torch.eye(3), torch.zeros(3), one, 0 * one, one)
    asked.explainer = SimpleNamespace(probes=probes, model=SimpleNamespace(config=SimpleNamespace(latent=3)))
    asked.units = {"far": "m"}
    path = SimpleNamespace(states=torch.stack([still, moves, far], -1))
    far, moves, still = asked._came(path, path.states[0, 1:] + 0.5)
    assert (far["name"], far["unit"], moves["name"], still["name"]) == ("far", "m", "moves", "still")
    assert far["steps"] == [[-2, -1.5], [-4, -3.5], [-6, -5.5]] and still["steps"] == [[0, 0.5]] * 3
    assert asked._came(path, None) == []


def test_numbers_of_the_state_have_the_names_of_the_quantities_that_they_are(page):
    one, two = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    still = torch.ones(64)
    same = equal(torch.stack([one, still, one + 0.1], 1), torch.stack([two, one * 1.00001, still], 1))
    assert same.nonzero().tolist() == [[0, 1]]
    data = json.loads(page[0].read_text().partition('id="data">')[2].partition("</script>")[0])
    names = ["cart_position", "pole_angle_cosine", "position[2]", "slider.velocity", "angular_vel"]
    assert [each["name"] for each in data["moments"][0]["inputs"]] == names


def test_what_the_page_says_to_predict_badly_was_measured(page):
    rows = csv.DictReader((Path(__file__).parents[1] / "docs/results/decisions.csv").read_text().splitlines())
    mean = {(row["task"], row["measure"]): float(row["mean"]) for row in rows}
    said = re.findall(r"(\d+) % \((\S+?)\)", page[0].read_text())
    assert len(said) == 3
    for share, task in said:
        assert int(share) == round(100 * mean[task, "top8_off"] / mean[task, "top8"])


BLOCKS = "#answer,#quantities,#plans,#reasons,#bar,#graph,#scale,#about,#senses,#scatter,#clamps,#measures,#limits"
"""The page's main blocks, from above."""
ENDS = "all => all.map(e => e.getBoundingClientRect()).map(r => [r.left, r.top, r.right, r.bottom])"
WIDE, NARROW = (49, 1182), (23, 354)
PLACES = {
    1280: [WIDE, (49, 363), *[(470, 761)] * 3, *[WIDE] * 3, (49, 562), (49, 250), (669, 562), *[(28, 1224)] * 2],
    400: [*[NARROW] * 5, (23, 1360), *[NARROW] * 3, (23, 250), NARROW, *[(10, 380)] * 2],
}
"""The left edge and the width of each at a width of the window, in pixels; the graph scrolls within its box."""


@pytest.mark.parametrize("width", PLACES)
def test_in_a_browser_the_blocks_stand_where_they_belong(browser, page, width):
    with browser(page[0].as_uri()) as view:
        view.set_viewport_size({"width": width, "height": 900})
        for theme in ("light", "dark"):
            root = "document.documentElement"
            assert view.evaluate(f"[{root}.scrollWidth, {root}.dataset.theme]") == [width, theme]
            blocks = view.locator(BLOCKS).evaluate_all(ENDS)
            for block, (left, wide) in zip(blocks, PLACES[width], strict=True):
                assert (block[0], block[2] - block[0]) == pytest.approx((left, wide), abs=3)
                assert 10 < block[3] - block[1] < 1000
            for one, other in pairwise(blocks):
                assert one[2] <= other[0] or one[3] <= other[1] + 1  # beside or above it
            rects, graph = view.locator("#graph .node rect").evaluate_all(ENDS), blocks[5]
            for box, bar in zip(rects[::2], rects[1::2], strict=True):
                assert box[2] - box[0] == pytest.approx(134 / 1360 * (graph[2] - graph[0]), abs=3)
                for inner, outer in ((box, graph), (bar, box)):
                    sides = zip(inner, outer, (1, 1, -1, -1), strict=True)
                    assert all(sign * (at - end) >= -2 for at, end, sign in sides)
            view.keyboard.press("t")


def test_in_a_browser_the_page_can_be_worked(browser, page):
    out, result = page
    with browser(out.as_uri()) as view:
        nodes = view.locator("#graph .node")
        assert nodes.count() == result["nodes"]
        assert view.locator("#answer").inner_text().startswith("It did ")
        assert view.locator("#senses tbody tr").count() == 6 and view.locator("#followed").is_hidden()  # nothing read
        ids = {node["node_id"] for node in json.loads(out.with_suffix(".json").read_text())["nodes"]}
        assert set(nodes.evaluate_all("all => all.map(one => one.dataset.id)")) == ids
        first = view.locator("#graph .node").nth(1)
        first.click()
        assert view.locator("#graph .node.pinned").count() == 1 and view.locator("#about h3").count() == 1
        assert view.locator("#graph .edge.lit").count() > 0
        view.keyboard.press("Escape")
        assert view.locator("#graph .node.pinned").count() == 0
        first.focus()
        view.keyboard.press("Enter")
        assert first.get_attribute("aria-pressed") == "true"
        view.locator("#slider").fill("0.05")
        assert nodes.count() < result["nodes"]
        view.locator("#slider").fill("1")
        view.locator("#search").fill("no such thing")
        assert view.locator("#graph .node.dim").count() == result["nodes"]
        view.locator("#search").fill("")
        view.keyboard.press("Escape")
        title = view.locator("#subtitle").inner_text()
        view.keyboard.press("ArrowRight")
        assert view.locator("#subtitle").inner_text() != title and view.locator("#after").is_disabled()
        light = view.screenshot()
        view.keyboard.press("t")
        assert view.screenshot() != light
