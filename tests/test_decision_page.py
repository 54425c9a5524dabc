"""Laws of a decision's page: it shows what was decided, refuses wrong questions and can be worked in a browser."""

import csv
import json
import os
import re
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from configs.runs.evaluation import Evaluation
from configs.runs.explaining import Why, why
from configs.schema import EvaluateConfig, WhyConfig
from envs.settings import TaskConfig
from policies.decisions import trace
from policies.guidance.compiling import equal
from policies.settings import GuidanceKeys
from worldmodel.errors import UserError
from worldmodel.probes import Probes


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
        ({"run": "nowhere"}, "run=nowhere: no such folder"),
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
        with pytest.raises(UserError, match=f"out=.*{name[0]}.html: .*{name} is a folder"):
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
