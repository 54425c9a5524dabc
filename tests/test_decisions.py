"""Laws of seeing a decision: effects that add up and predict interventions, a trace that survives, a page."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from configs.arm.running import RunSession
from configs.runs.evaluation import Evaluation
from configs.runs.explaining import why
from configs.schema import EvaluateConfig, WhyConfig
from envs.settings import TaskConfig
from policies.agent import Agent
from policies.decisions import trace
from policies.decisions.graph import Explainer, Usual
from policies.decisions.schema import as_json
from policies.decisions.trace import Trace
from policies.settings import GuidanceKeys
from policies.storage.folders import FolderError
from robot.settings import RunConfig
from worldmodel.attribution import Inputs, effects, follow, groups, influence, prune, scores
from worldmodel.attribution import Usual as Average
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
    usual = Average(torch.randn(size, generator=g), torch.zeros(2))
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
        lost = path.total - follow(search, roots, plans, held, usual.state, share).total
        assert torch.allclose(lost, share * found.of_group.flatten(), atol=1e-4)
    every = held.view(steps, count, steps, 6)[1].any(0)[None]  # all groups of the first imagined step
    lost = path.total - follow(search, roots[:1], plans[:, :1], every, usual.state).total
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


def test_the_json_has_what_both_front_ends_read(joined_model, toys):
    explaining = explainer(joined_model)
    found = explaining.explain(toys.observed({STATE_KEY: torch.randn(1, 3)}), torch.zeros(2), torch.rand(3, 6))
    graph = json.loads(json.dumps(as_json(found, explaining.inputs, "s", "scan", "a prompt", {})))
    assert graph.keys() == {"metadata", "qParams", "nodes", "links"}
    assert graph["metadata"].keys() >= {"slug", "scan", "prompt_tokens", "prompt", "transcoder_list", "schema_version"}
    assert graph["qParams"].keys() >= {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
    prompt, ids = graph["metadata"]["prompt_tokens"], [node["node_id"] for node in graph["nodes"]]
    assert len(set(ids)) == len(ids) == int(found.kept.sum())
    assert {end for link in graph["links"] for end in (link["source"], link["target"])} <= {*ids}
    for node in graph["nodes"]:
        assert node.keys() >= {"node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"}
        assert node["layer"] == "E" or int(node["layer"]) >= 0
        assert 0 <= node["ctx_idx"] < len(prompt)
        if node["feature_type"] == "logit":
            assert "(p=" in node["clerp"]
    seen = [node["feature"] for node in graph["nodes"] if node["feature_type"] == "cross layer transcoder"]
    assert seen and max(map(seen.count, seen)) <= 2 / 3 * len(prompt)  # else circuit-tracer's drops the node


@pytest.fixture
def acting(toys):
    def agent():
        model = toys.tiny_model(3, 4, token=toys.token_settings(2))
        return Agent.acting(model, PLANNING, 0.9, (), torch.Generator().manual_seed(0))

    return agent


def acted(agent, toys, steps=9):
    g = torch.Generator().manual_seed(1)
    return torch.stack([agent.act(toys.observed({STATE_KEY: torch.randn(2, 3, generator=g)})) for _ in range(steps)])


def test_a_trace_holds_every_decision_and_changes_none(acting, toys, tmp_path):
    plain, agent, clock = acting(), acting(), [0]
    agent.trace = Trace(tmp_path, {"task": "toy"}, lambda: ([7, 8], [clock[0]] * 2))
    g, latents, returns = torch.Generator().manual_seed(1), [], []
    expected = acted(plain, toys)
    for step in range(9):
        clock[0] = step
        action = agent.act(toys.observed({STATE_KEY: torch.randn(2, 3, generator=g)}))
        assert torch.equal(action, expected[step])
        if bool(agent.planned.any()):
            latents.append(agent.plan.latent)
            returns.append(agent.plan.returns)
    agent.trace.close()
    rows, about = trace.read(tmp_path)
    assert about == {"task": "toy"} and len(rows) == agent.totals.decisions == 10
    places = [(row["episode_index"], row["frame_index"]) for row in rows]
    assert places == [(episode, frame) for frame in range(0, 9, 2) for episode in (7, 8)]
    assert torch.equal(torch.tensor([row["latent"] for row in rows]), torch.cat(latents))
    assert torch.equal(torch.tensor([row["elite_returns"] for row in rows]), torch.cat(returns))
    for row in rows:
        assert len(row["candidate_returns"]) == 8 and row["candidate_returns"][:4] == row["elite_returns"]
        assert len(row["rejected_returns"]) == 3 and len(row["rejected_tokens"]) == 3 * len(row["tokens"])
        assert len(row["tokens"]) == 3 * 4 and row["steps"] == 2 and row["plan_ms"] > 0


def test_rejected_plans_are_good_ones_that_differ():
    elites = np.array([[[0.0], [0.01], [1.0], [-1.0], [5.0], [6.0], [7.0], [8.0]]])
    chosen, returns = np.zeros((1, 1)), np.array([8.0, 7, 6, 5, 4, 3, 2, -np.inf])
    assert trace.rejected(elites, returns, chosen) == [1, 2, 3]
    assert trace.rejected(elites, np.full(8, -np.inf), chosen) == []


def test_a_trace_is_bounded_and_goes_on_after_the_files_that_are_there(acting, toys, tmp_path, monkeypatch):
    monkeypatch.setattr(trace, "ROWS", 4)
    monkeypatch.setattr(trace, "MOST_BYTES", 40_000)
    for _ in range(3):
        agent = acting()
        agent.trace = Trace(tmp_path, {}, lambda: ([0, 0], [0, 0]))
        acted(agent, toys)
        agent.trace.close()
    found = trace.files(tmp_path)
    assert 1 < len(found) < 9 and int(found[-1].stem) == 8
    assert sum(path.stat().st_size for path in found) < 60_000


KILLED = """
import sys, time, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
from policies.agent import Agent
from policies.decisions.trace import Trace
from worldmodel.model import WorldModel
from worldmodel.observation import Observation
from worldmodel.settings import ModelConfig, PlannerConfig
config = ModelConfig(latent=16, group=4, width=16, bins=11, precision="fp32")
model = WorldModel({{"observation.state": (3,)}}, 2, config)
planning = PlannerConfig(samples=8, policy_samples=2, elites=4, iterations=1, horizon=2)
agent = Agent.acting(model, planning, 0.9, (), torch.Generator())
n = 0
agent.trace = Trace(Path({folder!r}), {{}}, lambda: ([0], [n]))
while True:
    agent.act(Observation.of(model.senses, {{"observation.state": torch.zeros(1, 3)}}))
    n += 1
    print(n, time.time(), flush=True)
    time.sleep(0.01)
"""


def test_a_process_killed_at_once_leaves_all_but_its_last_seconds(tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    said = []
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            said.append(line.split())
            if float(said[-1][1]) - float(said[0][1]) > 5 and trace.files(tmp_path):
                break
        process.send_signal(signal.SIGKILL)
    rows, _ = trace.read(tmp_path)
    assert [row["frame_index"] for row in rows] == list(range(len(rows)))
    kept = [float(at) for n, at in said if int(n) <= len(rows)]
    assert float(said[-1][1]) - kept[-1] < 3  # a second, and what writing takes on a loaded machine


def test_what_is_no_trace_is_refused_in_a_line(tmp_path):
    with pytest.raises(FolderError, match="holds no trace"):
        trace.read(tmp_path)
    (tmp_path / "000000.parquet").write_bytes(b"no")
    with pytest.raises(FolderError, match="not a trace"):
        trace.read(tmp_path)


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
        ({"guidance": GuidanceKeys("nowhere")}, "nowhere"),
    ],
)
def test_a_wrong_question_is_refused_in_a_line(checkpoint, keys, line, tmp_path):
    usual = {"run": str(checkpoint), "episode": 1, "episodes": 2, "out": str(tmp_path / "p.html")}
    with pytest.raises(UserError, match=line):
        why(WhyConfig(**usual | keys), tmp_path)
    assert not [*tmp_path.iterdir()]


def test_in_a_browser_the_page_can_be_worked(browser, page):
    out, result = page
    with browser(out.as_uri()) as view:
        nodes = view.locator("#graph .node")
        assert nodes.count() == result["nodes"]
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


def test_a_run_on_an_arm_keeps_a_trace_by_episode_and_frame(arm_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = {"episodes": 2, "seconds": 0.5, "viewer": "none", "planner": True, "trace": True}
    told = RunSession.begin(RunConfig(checkpoint=str(arm_checkpoint), **keys)).run()
    rows, about = trace.read(Path(told["trace"]))
    assert about["task"] == "so101-touch" and told["episodes"] == 2
    assert {row["episode_index"] for row in rows} == {0, 1} and len(rows) >= told["plans"]
    for episode in (0, 1):
        frames = [row["frame_index"] for row in rows if row["episode_index"] == episode]
        assert frames == sorted(frames) and frames[0] >= 1
