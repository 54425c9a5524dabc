"""Laws of seeing a decision: effects that add up and predict interventions, a graph to read."""

import json
from typing import Literal

import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field

from policies.decisions import graph
from policies.decisions.graph import Explainer, Usual
from policies.decisions.schema import as_json
from worldmodel.attribution import Inputs, effects, follow, groups, influence, prune, scores
from worldmodel.mppi import Search, Step, rollout
from worldmodel.planner import search_in
from worldmodel.probes import Probes
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
    both = *exactly.graph.scores, *exactly.shown.scores
    assert both == pytest.approx((1, 1, 1, 1), abs=1e-4)  # what came is what was imagined


def test_what_is_shown_of_a_graph_is_all_of_it_in_sixty_nodes(joined_model, toys, monkeypatch):
    explaining = explainer(joined_model)
    found = explaining.explain(toys.observed({STATE_KEY: torch.randn(1, 3)}), torch.zeros(2), torch.rand(3, 6))
    monkeypatch.setattr(graph, "MOST", 20)
    shown = found.graph.pruned()
    assert len(shown.nodes) <= 20 < len(found.graph.nodes)
    places = [place for node in shown.nodes for place in node.places]
    assert sorted(places) == sorted({*places}) and any(len(node.places) > 1 for node in shown.nodes)
    sums = torch.zeros(2, 4)  # an effect is a sum over groups, however they are put together
    for row, nodes in enumerate((shown.nodes, found.graph.nodes)):
        for node in nodes:
            sums[row, node.step] += node.effect if node.kind == "group" else 0
    assert torch.allclose(sums[0], sums[1], atol=0.02 * float(sums[1].abs().max()))  # but for what is faint
    rest = next(node for node in shown.nodes if len(node.places) > 1)
    (clamp,) = explaining._hold(found.path, found.tokens, found.effects, [rest.places], 1.0)
    assert clamp.predicted == pytest.approx(rest.effect, abs=1e-5)


def test_a_plan_that_nothing_bears_on_has_an_empty_graph():
    nodes = tuple(graph.Node(kind, 0, 0, kind, 0.0) for kind in ("input", "group", "error", "outcome"))
    shown = graph.Graph(nodes, torch.zeros(4, 4), torch.zeros(4)).pruned()
    assert shown.nodes == () and shown.scores == (0, 0)


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
    made = json.loads(json.dumps(as_json(found, explaining.inputs, "s", "scan", "a prompt")))
    Graph.model_validate(made, strict=True)
    prompt, ids = made["metadata"]["prompt_tokens"], [node["node_id"] for node in made["nodes"]]
    assert len(set(ids)) == len(ids) == len(found.shown.nodes)
    assert {end for link in made["links"] for end in (link["source"], link["target"])} <= {*ids}
    for node in made["nodes"]:
        assert 0 <= node["ctx_idx"] < len(prompt)
        if node["feature_type"] == "logit":
            assert "(p=" in node["clerp"]
    seen = [node["feature"] for node in made["nodes"] if node["feature_type"] == "cross layer transcoder"]
    assert seen and max(map(seen.count, seen)) <= 2 / 3 * len(prompt)  # else circuit-tracer's drops the node
