"""The graph of one decision: which groups of the imagined latents brought the return, named by what they hold.

Each effect is a prediction of what holding the group at its mean would cost (`worldmodel.attribution`), and each is
tested by doing so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.attribution import Effects, Followed, Inputs, effects, follow, groups, prune, scores
from worldmodel.layers import Linear
from worldmodel.model import WorldModel
from worldmodel.mppi import Search
from worldmodel.observation import Observation
from worldmodel.planner import join, search_in
from worldmodel.probes import Probes
from worldmodel.senses import STATE_KEY, name

TOP = 8  # how many of the most important groups are held at their means together, and one by one in the table
MOST = 60  # nodes that are shown at most
FAINT = 0.001  # of all outcomes; one that counts for less may be left out
DESCRIBED = 3  # how many quantities a group is described by


def exact(model: WorldModel) -> WorldModel:
    """Compute in float32 from now on, as gradients in bf16 are too coarse; return the model."""
    for layer in model.modules():
        if isinstance(layer, Linear):
            layer.dtype = torch.float32
    return model


@dataclass(frozen=True)
class Usual:
    """What is remembered: mean latent (D,), token (P,), features of each sense (n, h); probes to name groups by."""

    latent: Float[Tensor, " D"]
    token: Float[Tensor, " P"]
    features: Float[Tensor, "n h"]
    probes: Probes


@dataclass(frozen=True)
class Node:
    """A node: of `kind` input, token, error, group or outcome, at a step, with its effect on the return.

    `holds`: for a group, what it says about quantities: (name, share of the quantity's range above its mean).
    `places`: which groups it is of, as (step, group); several, if it is the rest of a step.
    """

    kind: str
    number: int
    step: int
    label: str
    effect: float
    holds: tuple[tuple[str, float], ...] = ()
    places: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Clamp:
    """Groups held at their means, as far as `share`: (step, group) pairs, the loss predicted, and the real one."""

    held: tuple[tuple[int, int], ...]
    share: float
    predicted: float
    measured: float


@dataclass(frozen=True)
class Graph:
    """Nodes, the weight of the edge from j to i as `weight[i, j]` (0: none), how much each node counts as an end."""

    nodes: tuple[Node, ...]
    weight: Float[Tensor, "N N"]
    ends: Float[Tensor, " N"]

    def of_kind(self, *kinds: str) -> Bool[Tensor, " N"]:
        """Return which nodes are of these kinds."""
        return torch.tensor([node.kind in kinds for node in self.nodes], dtype=torch.bool)

    @property
    def scores(self) -> tuple[float, float]:
        """Replacement and completeness (`worldmodel.attribution.scores`)."""
        return scores(self.weight, self.ends, self.of_kind("input", "token"), self.of_kind("error"))

    def pruned(self) -> "Graph":
        """Return the graph of at most MOST nodes that is shown, in which nothing is left out but faint edges.

        Nodes of little influence are one in each step, and one of the inputs: effects are sums, so that of several
        groups is the sum of theirs. What came otherwise than imagined keeps all its edges.
        """
        rests = 2 + max(node.step for node in self.nodes)
        kept = prune(self.weight, self.ends, *self._fixed, most=MOST - rests)[0]
        rows = [*torch.eye(len(self.nodes))[kept]]
        nodes = [self.nodes[n] for n in kept.nonzero()[:, 0].tolist()]
        for kind, step in [("input", 0), *(("group", step) for step in range(rests - 1))]:
            both = [(node.kind, node.step) == (kind, step) for node in self.nodes]
            others = torch.tensor(both) & ~kept
            if bool(others.any()):
                rest = [self.nodes[n] for n in others.nonzero()[:, 0].tolist()]
                effect, places = sum(node.effect for node in rest), tuple(p for node in rest for p in node.places)
                label = f"{len(rest)} other {kind}s"
                nodes.append(Node(kind, sum(both), step, label, effect, places=places))
                rows.append(others.float())
        joined = torch.stack(rows)
        whole = Graph(tuple(nodes), joined @ self.weight @ joined.T, joined @ self.ends)
        kept, lines = prune(whole.weight, whole.ends, *whole._fixed, most=MOST)
        lines = lines | (kept[:, None] & whole.of_kind("error") & (whole.weight != 0))
        kept = kept & (lines.any(0) | lines.any(1))
        weight, left = torch.where(lines, whole.weight, 0)[kept][:, kept], kept.nonzero()[:, 0].tolist()
        return Graph(tuple(nodes[n] for n in left), weight, whole.ends[kept])

    @property
    def _fixed(self) -> tuple[Bool[Tensor, " N"], Bool[Tensor, " N"]]:
        """Which nodes are never dropped, and which need nothing that leads to them."""
        ends = self.of_kind("outcome") & (self.ends > FAINT)
        return self.of_kind("error") | ends, self.of_kind("input", "token", "error")


@dataclass(frozen=True)
class Explained:
    """A decision, explained: its `graph` as it is, and as it is `shown`.

    `single`, `half`, `pairs`: clamps of each group, to the half, and of pairs. `together`: of the TOP groups with the
    largest effects, and of as many random ones. `rest`: of each node that is several groups.
    """

    path: Followed
    tokens: Float[Tensor, "H P"]
    effects: Effects
    graph: Graph
    shown: Graph
    rest: tuple[Clamp, ...]
    single: tuple[Clamp, ...]
    half: tuple[Clamp, ...]
    pairs: tuple[Clamp, ...]
    together: tuple[Clamp, Clamp]

    @property
    def measures(self) -> dict[str, float]:
        """How far the graph can be trusted, as plain numbers."""
        replacement, completeness = self.graph.scores
        pruned_replacement, pruned_completeness = self.shown.scores
        top, drawn = (abs(each.measured) for each in self.together)
        held_out = [*self.half, *self.pairs]
        return {
            "pearson": _correlation(self.single),
            "spearman": _correlation(self.single, ranked=True),
            "spearman_held_out": _correlation(held_out, ranked=True),
            "top8_over_random": top / max(drawn, 1e-9),
            "replacement": replacement,
            "completeness": completeness,
            "pruned_replacement": pruned_replacement,
            "pruned_completeness": pruned_completeness,
            "not_conserved": self.effects.not_conserved,
        }


class Explainer:
    """Explains decisions of one model; `discount` is over one token, `labels` name the components of the state."""

    def __init__(self, model: WorldModel, discount: float, usual: Usual, labels: Sequence[str]):
        self.model, self.usual, self.labels = exact(model), usual, tuple(labels)
        self.search: Search = search_in(model, discount)
        size = model.config.latent + model.shared
        self.member = groups(model.config.latent, model.config.group, size)
        ends = model.ends(usual.token)
        self.average = torch.cat([usual.latent, ends]), usual.token
        self.probes = usual.probes

    def encode(self, seen: Observation) -> Float[Tensor, "B D"]:
        """Return the latents of observations, with cameras' frames stacked."""
        with torch.no_grad():
            return self.model.encode(self.model.preprocess(seen))

    @property
    def inputs(self) -> list[str]:
        """The names of the encoder's inputs: the components of the state, and each other sense as a whole."""
        state = self.labels if STATE_KEY in self.model.senses else ()
        return [*state, *(name(key) for key in self.model.senses if key != STATE_KEY)]

    def explain(
        self,
        seen: Observation,
        reached: Float[Tensor, " A"],
        tokens: Float[Tensor, "H P"],
        followed: Float[Tensor, "H D"] | None = None,
    ) -> Explained:
        """Explain a plan whose first curve begins at `reached`. `followed`: the latents that really came of it."""
        root = join(self.encode(seen), reached[None])[0]
        path = follow(self.search, root[None], tokens[:, None])
        wrong = None
        if followed is not None:
            wrong = self._surprise(path, tokens, followed)
        found = effects(self.search, path, tokens, self.member, self.average, self.encoder(seen, reached), wrong)
        graph = self._graph(path.states[0], found)
        shown = graph.pruned()
        several = [node.places for node in shown.nodes if len(node.places) > 1]
        rest = self._hold(path, tokens, found, several, 1.0) if several else ()
        return Explained(path, tokens, found, graph, shown, rest, *self._clamps(path, tokens, found))

    def _surprise(self, path: Followed, tokens: Tensor, followed: Float[Tensor, "H D"]) -> Float[Tensor, "H S"]:
        """Return the states that followed less those that the model makes of the true states before."""
        states, latent = path.states[0], self.model.config.latent
        truth = join(followed, states[1:, latent:])
        with torch.no_grad():
            return truth - self.search.step(torch.cat([states[:1], truth[:-1]]), tokens).state

    def encoder(self, seen: Observation, reached: Tensor) -> Inputs:
        """Return the encoder's inputs."""
        model, ready = self.model, self.model.preprocess(seen)
        with torch.no_grad():
            features = model.encode_each(ready)[0]
        keys, presence = [*model.senses], ready.presence
        own = STATE_KEY in model.senses
        others = [i for i, key in enumerate(keys) if key != STATE_KEY]
        state = ready.values[STATE_KEY][0] if own else features.new_zeros(0)
        usual = model.normaliser.mean[: model.state_size] if own else state
        size, width = len(state), features.shape[-1]
        given = torch.cat([state, *(features[i] for i in others)])
        mean = torch.cat([usual, *(self.usual.features[i] for i in others)])
        parts = torch.zeros(size + len(others), len(given), dtype=torch.bool)
        parts[:size, :size] = torch.eye(size, dtype=torch.bool)
        for n in range(len(others)):
            parts[size + n, size + n * width : size + (n + 1) * width] = True

        def encode(x: Tensor) -> Tensor:
            rest = iter(x[:, size:].split(width, 1))
            each = [
                model.encoder.parts[i](model.normaliser(x[:, :size])) if key == STATE_KEY else next(rest)
                for i, key in enumerate(keys)
            ]
            z = model.encoder.fuse(torch.stack(each, 1), presence.expand(len(x), -1))
            return join(z, reached.expand(len(x), -1))

        return Inputs(encode, given, mean, parts)

    def _graph(self, states: Float[Tensor, "H1 S"], found: Effects) -> Graph:
        """Return the whole graph. An outcome counts by its share of all that differs from the usual."""
        horizon, count, inputs = len(states) - 1, len(self.member), self.inputs
        nodes = [Node("input", i, 0, label, float(found.input_to_group[i].sum())) for i, label in enumerate(inputs)]
        into = found.token_to_group.sum(1) + found.token_to_end.sum(1)
        nodes += [Node("token", h, h, f"token {h + 1}", float(into[h])) for h in range(horizon)]
        wrong = found.surprise_to_group.sum(1).tolist()
        nodes += [Node("error", h, h + 1, "what came otherwise", wrong[h]) for h in range(horizon)]
        at_groups, at_ends = len(nodes), len(nodes) + (horizon + 1) * count
        says = self._says(states)
        for h in range(horizon + 1):
            for g in range(count):
                label = says[h][g][0][0] if says[h][g] else f"group {g + 1}"
                nodes.append(Node("group", g, h, label, float(found.of_group[h, g]), says[h][g], ((h, g),)))
        outcome = found.group_to_end.sum(1) + found.token_to_end
        nodes += [Node("outcome", h, h + 1, f"reward {h + 1}", float(outcome[h, 0])) for h in range(horizon)]
        nodes += [Node("outcome", horizon + h, h + 1, f"goes on {h + 1}", float(outcome[h, 1])) for h in range(horizon)]
        nodes.append(Node("outcome", 2 * horizon, horizon, "value", float(found.of_group[-1].sum())))
        weight = torch.zeros(len(nodes), len(nodes))
        group = torch.arange(at_groups, at_ends).view(horizon + 1, count)
        weight[group[0], : len(inputs)] = found.input_to_group.T
        for h in range(horizon):
            token, error = len(inputs) + h, len(inputs) + horizon + h
            weight[group[h + 1][:, None], group[h]] = found.group_to_group[h].T
            weight[group[h + 1], token] = found.token_to_group[h]
            weight[group[h + 1], error] = found.surprise_to_group[h]
            for kind in range(2):
                end = at_ends + kind * horizon + h
                weight[end, group[h]], weight[end, token] = found.group_to_end[h, :, kind], found.token_to_end[h, kind]
        weight[-1, group[-1]] = found.of_group[-1]
        ends = torch.zeros(len(nodes))
        ends[at_ends:] = weight[at_ends:].abs().sum(1)
        return Graph(tuple(nodes), weight, ends / ends.sum().clamp(min=1e-20))

    @torch.enable_grad()
    def _says(self, states: Float[Tensor, "T S"]) -> list[list[tuple[tuple[str, float], ...]]]:
        """Return for each step and group what it says about quantities, the most first."""
        if not self.probes.names:
            return [[()] * len(self.member)] * len(states)
        latent = self.model.config.latent
        z = states[:, :latent].clone().requires_grad_()
        spread = (self.probes.high - self.probes.low).clamp(min=1e-9)
        read, found = self.probes(z) / spread, []
        for q in range(read.shape[1]):
            (slope,) = torch.autograd.grad(read[:, q].sum(), z, retain_graph=True)
            found.append((slope * (z.detach() - self.usual.latent)) @ self.member[:, :latent].float().T)
        said = torch.stack(found, -1)  # (T, G, Q)
        order = said.abs().argsort(-1, descending=True)[..., :DESCRIBED]
        return [
            [
                tuple((self.probes.names[q], float(said[h, g, q])) for q in order[h, g].tolist())
                if bool(self.member[g, :latent].any())
                else ()
                for g in range(len(self.member))
            ]
            for h in range(len(states))
        ]

    def _clamps(self, path: Followed, tokens: Tensor, found: Effects):
        """Hold groups at their means, and compare what is lost with what the effects predict."""
        steps, count = found.of_group.shape
        draw = torch.Generator().manual_seed(0)
        every = [((h, g),) for h in range(steps) for g in range(count)]
        order = found.of_group.flatten().abs().argsort(descending=True).tolist()
        mixed = torch.randperm(len(every), generator=draw).tolist()
        pairs = [every[a] + every[b] for a, b in zip(order[: len(order) // 2], mixed, strict=False) if a != b]
        top, drawn = (tuple(every[i][0] for i in chosen[:TOP]) for chosen in (order, mixed))
        one = self._hold(path, tokens, found, [*every, *pairs, top, drawn], 1.0)
        half = self._hold(path, tokens, found, every, 0.5)
        return one[: len(every)], half, one[len(every) : -2], (one[-2], one[-1])

    def _hold(self, path: Followed, tokens: Tensor, found: Effects, held: Sequence[tuple], share: float):
        masks = torch.zeros(len(held), *path.states[0].shape, dtype=torch.bool)
        for k, places in enumerate(held):
            for h, g in places:
                masks[k, h] |= self.member[g]
        roots, plans = path.states[:, 0].expand(len(held), -1), tokens[:, None].expand(-1, len(held), -1)
        left = follow(self.search, roots, plans, masks, self.average[0], share).total
        said = [share * sum(float(found.of_group[place]) for place in places) for places in held]
        lost = (path.total - left).tolist()
        return tuple(Clamp(tuple(h), share, s, m) for h, s, m in zip(held, said, lost, strict=True))


def _correlation(clamps: Sequence[Clamp], ranked: bool = False) -> float:
    """Return the correlation of the losses predicted and measured, or of their ranks; 0 if one does not vary."""
    both = torch.tensor([[clamp.predicted, clamp.measured] for clamp in clamps]).T
    both = both.argsort(1).argsort(1).float() if ranked else both
    return float(both.corrcoef()[0, 1].nan_to_num())
