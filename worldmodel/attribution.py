"""How the return of an imagined plan comes about: effects of groups of the latent, and clamps that test them.

The plan is followed in imagination from its root. The effect of some numbers x at one step is the gradient of the whole
return times (x - usual), taken where x is halfway to the usual: to second order, what the return would lose if they
were held at the usual. (The gradient at x itself says less: values and SimNorm are curved.) An edge is the part of an
effect that goes through one node of the next step; by the chain rule the edges that leave a node add up to its effect.
The measures of a graph are those of circuit-tracer (Ameisen et al. 2025, "Circuit Tracing").

Letters in shapes: H tokens in a plan, S numbers in the state of a search (`worldmodel.mppi`), G groups of them, P
numbers in a token, I inputs of the encoder, made of J numbers, K plans followed at once, N nodes of a graph.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.mppi import Search


@dataclass(frozen=True)
class Inputs:
    """The encoder's inputs: `encode` (K, J) -> root states (K, S); the inputs, the usual ones, what each of I holds."""

    encode: Callable[[Tensor], Tensor]
    given: Float[Tensor, " J"]
    usual: Float[Tensor, " J"]
    member: Bool[Tensor, "I J"]


@dataclass(frozen=True)
class Followed:
    """K plans followed in imagination: what they bring, and the derivatives of each return by it."""

    states: Float[Tensor, "K H1 S"]
    reward: Float[Tensor, "K H"]
    continues: Float[Tensor, "K H"]
    value: Float[Tensor, " K"]
    total: Float[Tensor, " K"]
    of_state: Float[Tensor, "K H1 S"]
    of_reward: Float[Tensor, "K H"]
    of_continues: Float[Tensor, "K H"]
    of_value: Float[Tensor, " K"]


def groups(latent: int, group: int, size: int) -> Bool[Tensor, "G S"]:
    """Return which numbers of a state each group holds: those of the latent (SimNorm's), then the end of the curve."""
    number = torch.arange(latent) % (latent // group)
    own = torch.arange(latent // group)[:, None] == number
    rows = torch.cat([own, torch.zeros(len(own), size - latent, dtype=torch.bool)], 1)
    return torch.cat([rows, (torch.arange(size) >= latent)[None]]) if size > latent else rows


@torch.enable_grad()
def follow(
    search: Search,
    roots: Float[Tensor, "K S"],
    tokens: Float[Tensor, "H K P"],
    held: Bool[Tensor, "K H1 S"] | None = None,
    usual: Float[Tensor, " S"] | None = None,
    share: float = 1.0,
) -> Followed:
    """Follow K plans, and differentiate their returns.

    `held` (K, H + 1, S): numbers that are moved by `share` of the way to the `usual` ones; all that comes later is
    imagined anew.
    """
    state, total, factor = roots, torch.zeros(len(roots)), torch.ones(len(roots))
    states: list[Tensor] = []
    ends: list[tuple[Tensor, Tensor]] = []
    for h in range(len(tokens) + 1):
        if held is not None:
            assert usual is not None
            state = torch.where(held[:, h], state + share * (usual - state), state)
        state = state if state.requires_grad else state.detach().requires_grad_()
        states.append(state)
        if h < len(tokens):
            step = search.step(state, tokens[h])
            ends.append((step.reward, step.continues))
            total, state = total + factor * step.reward, step.state
            factor = factor * search.discount * step.continues
    value = search.value(states[-1])
    total = total + factor * value
    rewards, continues = map(list, zip(*ends, strict=True))
    leaves = [*states, *rewards, *continues, value]
    found = torch.autograd.grad(total.sum(), leaves, allow_unused=True)
    by = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]
    n, m = len(states), len(ends)
    made = torch.stack(states, 1), torch.stack(rewards, 1), torch.stack(continues, 1), value, total
    slopes = torch.stack(by[:n], 1), torch.stack(by[n : n + m], 1), torch.stack(by[n + m : -1], 1), by[-1]
    return Followed(*(each.detach() for each in (*made, *slopes)))


@dataclass(frozen=True)
class Effects:
    """Effects on the return, and the edges between them.

    of_group (H + 1, G). group_to_group (H, G, G): from a group of one step to one of the next. token_to_group (H, G).
    group_to_end (H, G, 2), token_to_end (H, 2): to a token's reward and continuation. Of the last step's groups, all
    goes to the value. input_to_group (I, G): of the encoder's inputs on the root. surprise_to_group (H, G): what the
    latents that really followed would have brought; zeros where they are not known.
    """

    of_group: Float[Tensor, "H1 G"]
    group_to_group: Float[Tensor, "H G G"]
    group_to_end: Float[Tensor, "H G 2"]
    token_to_group: Float[Tensor, "H G"]
    token_to_end: Float[Tensor, "H 2"]
    input_to_group: Float[Tensor, "I G"]
    surprise_to_group: Float[Tensor, "H G"]

    @property
    def not_conserved(self) -> float:
        """How far edges that leave groups miss the groups' effects, as a share of all effects."""
        out = self.group_to_group.sum(2) + self.group_to_end.sum(2)
        return float((out - self.of_group[:-1]).abs().sum() / self.of_group.abs().sum().clamp(min=1e-12))


@torch.enable_grad()
def effects(
    search: Search,
    path: Followed,
    tokens: Float[Tensor, "H P"],
    member: Bool[Tensor, "G S"],
    usual: tuple[Float[Tensor, " S"], Float[Tensor, " P"]],
    inputs: Inputs,
    surprise: Float[Tensor, "H S"] | None = None,
) -> Effects:
    """Return the effects in the one plan of `path`.

    `member`: the groups. `usual`: a usual state and token, such as their means over what is remembered. `surprise`
    (H, S): the state that really followed less the one that the model makes of the true state before.
    """
    states, horizon, count = path.states[0], len(tokens), len(member)
    mask, (usual_state, usual_token) = member.float(), usual
    places, many = (horizon + 1) * count, len(inputs.member)
    roots = torch.where(inputs.member, (inputs.given + inputs.usual) / 2, inputs.given)
    held = torch.zeros(places + horizon + many, horizon + 1, states.shape[1], dtype=torch.bool)
    held[torch.arange(places), torch.arange(places) // count] = member.repeat(horizon + 1, 1)
    plans = tokens.unsqueeze(1).repeat(1, len(held), 1)
    plans[torch.arange(horizon), places + torch.arange(horizon)] = (tokens + usual_token) / 2
    with torch.no_grad():
        begin = torch.cat([states[:1].expand(places + horizon, -1), inputs.encode(roots)])
    halfway = follow(search, begin, plans, held, usual_state, 0.5)

    # Of the rows that move something at one step, the step is imagined again, once for each of the next step's nodes.
    row = torch.cat([torch.arange(horizon * count), places + torch.arange(horizon)])
    at = torch.cat([torch.arange(horizon).repeat_interleave(count), torch.arange(horizon)])
    copies = count + 2
    state = halfway.states[row, at].repeat_interleave(copies, 0).requires_grad_()
    token = plans[at, row].repeat_interleave(copies, 0).requires_grad_()
    step = search.step(state, token)
    wanted = torch.zeros(len(row), copies, states.shape[1])
    wanted[:, :count] = halfway.of_state[row, at + 1][:, None] * mask
    ends = torch.zeros(2, len(row), copies)
    ends[0, :, count], ends[1, :, count + 1] = halfway.of_reward[row, at], halfway.of_continues[row, at]
    objective = (step.state * wanted.flatten(0, 1)).sum()
    objective = objective + (torch.stack([step.reward, step.continues]) * ends.flatten(1)).sum()
    by_state, by_token = torch.autograd.grad(objective, (state, token))
    moved = (states - usual_state)[:, None] * mask  # (H + 1, G, S)
    own = moved[:-1].flatten(0, 1)
    from_group = (by_state.unflatten(0, (len(row), copies))[: len(own)] * own[:, None]).sum(-1)
    from_group = from_group.unflatten(0, (horizon, count))
    by_token = by_token.unflatten(0, (len(row), copies))[len(own) :]
    from_token = (by_token * (tokens - usual_token)[:, None]).sum(-1)

    given = roots.repeat_interleave(count, 0).requires_grad_()
    reached = inputs.encode(given).unflatten(0, (many, count))
    slope = halfway.of_state[places + horizon :, 0]
    (by_input,) = torch.autograd.grad((reached * slope[:, None] * mask).sum(), given)
    change = torch.where(inputs.member, inputs.given - inputs.usual, 0.0)
    off = torch.zeros_like(states[1:]) if surprise is None else surprise
    by_group = halfway.of_state[torch.arange(places), torch.arange(places) // count]
    return Effects(
        of_group=(by_group * moved.flatten(0, 1)).sum(-1).unflatten(0, (horizon + 1, count)),
        group_to_group=from_group[..., :count],
        group_to_end=from_group[..., count:],
        token_to_group=from_token[:, :count],
        token_to_end=from_token[:, count:],
        input_to_group=(by_input.unflatten(0, (many, count)) * change[:, None]).sum(-1),
        surprise_to_group=(path.of_state[0, 1:] * off) @ mask.T,
    )


def influence(
    weight: Float[Tensor, "N N"], ends: Float[Tensor, " N"]
) -> tuple[Float[Tensor, "N N"], Float[Tensor, " N"]]:
    """Return each edge's share of its target's input, and each node's influence on the `ends` by all its paths.

    `weight[i, j]`: of the edge from j to i, of a graph without circles. `ends` (N,): how much each end counts.
    """
    share = weight.abs() / weight.abs().sum(1, keepdim=True).clamp(min=1e-20)
    total, now = torch.zeros_like(ends), ends
    while bool(now.any()):
        now = now @ share
        total = total + now
    return share, total


def prune(
    weight: Float[Tensor, "N N"],
    ends: Float[Tensor, " N"],
    always: Bool[Tensor, " N"],
    first: Bool[Tensor, " N"],
    nodes: float = 1.0,
    edges: float = 0.98,
    most: int = 60,
) -> tuple[Bool[Tensor, " N"], Bool[Tensor, "N N"]]:
    """Return which nodes and edges are kept: the fewest that hold these shares of all influence, of nodes at `most`.

    Nodes `always` stay. Others that no longer lead to an end go, too, and those that nothing leads to, except `first`.
    """
    share, total = influence(weight, ends)
    ranked = torch.where(always, 0, total)
    few = most - int((always & (total + ends > 0)).sum())
    kept = _most(ranked, nodes) & (ranked.argsort(descending=True).argsort() < few) | always
    both = kept[:, None] & kept
    share, total = influence(torch.where(both, weight, 0), ends)
    lines = _most((share * (total + ends)[:, None]).flatten(), edges).view_as(weight) & both
    while True:
        leads, led = lines.any(0) | always, lines.any(1) | first | always
        still = kept & leads & led
        if bool((still == kept).all()):
            return kept, lines
        kept = still
        lines = lines & kept[:, None] & kept


def _most(values: Tensor, share: float) -> Tensor:
    """Return which are the largest values, as many as hold this share of their sum."""
    ordered, order = values.sort(descending=True)
    before = ordered.cumsum(0) - ordered
    kept = torch.zeros_like(values, dtype=torch.bool)
    kept[order] = (before < share * ordered.sum()) & (ordered > 0)
    return kept


def scores(
    weight: Float[Tensor, "N N"], ends: Float[Tensor, " N"], inputs: Bool[Tensor, " N"], errors: Bool[Tensor, " N"]
) -> tuple[float, float]:
    """Return replacement and completeness of a graph.

    Replacement: the share of `inputs` in the influence of inputs and `errors`. Completeness: the mean share of a node's
    input that is no error, each node weighted by its influence.
    """
    share, total = influence(weight, ends)
    known, unknown = float(total[inputs].sum()), float(total[errors].sum())
    whole = total + ends
    complete = float(((1 - share[:, errors].sum(1)) * whole).sum() / whole.sum().clamp(min=1e-20))
    return known / max(known + unknown, 1e-20), complete
