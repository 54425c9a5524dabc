"""Guidance: what a trained agent is to do instead of, or beside, what its rewards taught it; compiled into tensors.

A guidance is a few level sets of named quantities, which linear probes read from the latent, and may hold a value and a
policy fitted to them. `Guided` is the world model under it: the planner and the policy use it as they use any model.

Letters in shapes: Q quantities, T terms, D numbers in a latent, P in a token.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from worldmodel.layers import SquashedGaussian, twohot_mean
from worldmodel.model import ValueHeads, WorldModel
from worldmodel.settings import PlannerConfig, Term, Via

RIDGE = 1e-3
"""Weight of the penalty of a probe's squared weights, per moment."""
HELD_OUT = 5
"""One episode in so many measures how well the probes read; the others fit them."""
LINEAR = 0.995
"""The r2 below which a probe reads features of the latent, too."""
WIDE, RIDGE_WIDE, MOST = 1024, 1e-4, 20_000
"""How many features, the penalty of their probes, and the most moments that fit them."""
ANYWHERE, RIDGE_NEAR = 0.05, 1e-5
"""Of probes that read a guidance's quantities best where it is fulfilled: the weight of moments where it is not, beside
1 where it is, and the penalty."""
SHARP = 0.05
"""Share of a quantity's range within which a one-sided term rises to its full reward."""

DOUBTED = 2.0
"""How many standard deviations of a token's doubt count as distance (`closeness`)."""
MOVED = 0.5
"""The share of a reading's last error by which further readings are moved (`Guided.learned`)."""

LEASH = 10.0
"""What a squared distance of 1 from a fitted policy's plan costs, in control steps of full reward."""


@dataclass(frozen=True)
class Probes:
    """Readings q = W f(z) + b of Q named quantities from a latent, and how far each can be trusted.

    weight (Q, F): F = D if all read the latent itself, else D + WIDE (`lifted`). r2 (Q,): coefficient of determination
    on held-out episodes. low, high (Q,): the range seen (1 and 99 %). doubt (Q,): how much more a reading errs after an
    imagined token w, as a standard deviation for each unit of its root mean square; None: not known.
    """

    names: tuple[str, ...]
    weight: Float[Tensor, "Q F"]
    bias: Float[Tensor, " Q"]
    r2: Float[Tensor, " Q"]
    low: Float[Tensor, " Q"]
    high: Float[Tensor, " Q"]
    doubt: Float[Tensor, " Q"] | None = None

    def __call__(self, z: Float[Tensor, "*B D"]) -> Float[Tensor, "*B Q"]:
        """Read the quantities from latents."""
        return (z if self.weight.shape[1] == z.shape[-1] else lifted(z)) @ self.weight.T + self.bias

    def chosen(self, names: Sequence[str]) -> "Probes":
        """Return the probes of these quantities, in this order; linear ones if none of them needs more."""
        at = [self.names.index(name) for name in names]
        weight, bias, r2 = self.weight[at], self.bias[at], self.r2[at]
        size = weight.shape[1] - WIDE
        if size > 0 and not bool(weight[:, size:].any()):
            weight = weight[:, :size].contiguous()
        doubt = None if self.doubt is None else self.doubt[at]
        return Probes(tuple(names), weight, bias, r2, self.low[at], self.high[at], doubt)

    def doubted(self, z: Float[Tensor, "N D"], token: Float[Tensor, "N P"], values: Float[Tensor, "N Q"]) -> "Probes":
        """Return them with the doubt that N latents imagined after a token teach, by the true `values`."""
        size, error = token.square().mean(-1, keepdim=True), (self(z) - values).square()
        known = error.isfinite()
        count = known.sum(0).clamp(min=1)
        size, error = (torch.where(known, each, 0.0) for each in (size.expand_as(error), error))
        size = torch.where(known, size - size.sum(0) / count, 0.0)
        slope = (size * error).sum(0) / size.square().sum(0).clamp(min=1e-12)
        return replace(self, doubt=slope.clamp(min=0).sqrt())

    @classmethod
    def fit(
        cls,
        names: Sequence[str],
        latents: Float[Tensor, "N D"],
        values: Float[Tensor, "N Q"],
        episode: Int[Tensor, " N"],
        linear: bool = False,
    ) -> "Probes":
        """Fit probes by ridge regression to `values` at N moments; NaN where unknown. `episode` (N,): each one's.

        Where the latent alone gives an r2 below LINEAR, features of it are added (`lifted`), unless `linear`. A
        quantity that never changes, or is known at no held-out moment, has an r2 of 0.
        """
        test, known = episode % HELD_OUT == 0, values.isfinite()
        count, size = values.shape[1], latents.shape[1]
        low, high = (
            torch.tensor([_quantile(values[known[:, i], i], share) for i in range(count)]) for share in (0.01, 0.99)
        )
        fits = [
            high[i] > low[i] and min(int((known[:, i] & part).sum()) for part in (test, ~test)) > 1
            for i in range(count)
        ]
        able = [i for i in range(count) if fits[i]]
        found = torch.zeros(count, size + 2)
        found[able] = _ridge(latents, values[:, able], test, RIDGE)
        poor = [i for i in able if found[i, -1] < LINEAR]
        if poor and not linear:
            kept = torch.arange(len(latents))[:: -(-len(latents) // MOST)]
            more = _ridge(lifted(latents[kept]), values[kept][:, poor], test[kept], RIDGE_WIDE)
            wide = torch.zeros(count, size + WIDE + 2)
            wide[:, :size], wide[:, -2:] = found[:, :size], found[:, -2:]
            wide[poor] = torch.where(more[:, -1:] > found[poor, -1:], more, wide[poor])
            found = wide
        return cls(tuple(names), found[:, :-2].contiguous(), found[:, -2], found[:, -1], low, high)


def nearby(
    terms: Sequence["Term"],
    probes: Probes,
    latents: Float[Tensor, "N D"],
    values: Float[Tensor, "N T"],
    episode: Int[Tensor, " N"],
    generator: torch.Generator,
) -> Probes:
    """Return probes of the terms' quantities fitted to moments drawn by how well the guidance is fulfilled there.

    A search stays there, so errors elsewhere count less. `values`: the true ones. A probe that reads the held-out among
    the drawn moments no better than before stays as it was.
    """
    weight = ANYWHERE + closeness(terms, values, probes.high - probes.low).nan_to_num(0.0)
    rows = torch.multinomial(weight, min(len(weight), MOST), True, generator=generator)
    z, y, test = latents[rows], values[rows], episode[rows] % HELD_OUT == 0
    found = _ridge(lifted(z), y, test, RIDGE_NEAR)
    before = torch.zeros(len(terms), latents.shape[1] + WIDE)
    before[:, : probes.weight.shape[1]] = probes.weight
    known = test[:, None] & y.isfinite()
    error = torch.where(known, probes(z) - y, 0.0).square().sum(0)
    spread = torch.where(known, y - y.nanmean(0), 0.0).square().sum(0).clamp(min=1e-12)
    better = found[:, -1] > 1 - error / spread
    weight = torch.where(better[:, None], found[:, :-2], before)
    return replace(probes, weight=weight, bias=torch.where(better, found[:, -2], probes.bias))


def lifted(z: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
    """Append WIDE fixed random features to latents, from which a linear map reads curved quantities, too.

    Source: random features, Rahimi & Recht 2007 (NeurIPS), here SiLU units. A latent's entries have mean 1/8 or so.
    """
    directions, offsets = _directions(z.shape[-1], z.device)
    return torch.cat([z, F.silu((8 * z - 1) @ directions + offsets)], -1)


@functools.cache
def _directions(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(size, WIDE, generator=generator) / size**0.5, torch.randn(WIDE, generator=generator)
    return drawn[0].to(device), drawn[1].to(device)


def _ridge(x: Float[Tensor, "N F"], y: Float[Tensor, "N Q"], test: Tensor, penalty: float) -> Float[Tensor, "Q G"]:
    """Return weights, bias, r2 (F + 2) of each ridge of y on x, held out where `test`; columns known alike together."""
    known, result = y.isfinite(), torch.zeros(y.shape[1], x.shape[1] + 2)
    together: dict[bytes, list[int]] = {}
    for i in range(y.shape[1]):
        together.setdefault(known[:, i].numpy().tobytes(), []).append(i)
    for columns in together.values():
        train, held = known[:, columns[0]] & ~test, known[:, columns[0]] & test
        inputs, outputs = x[train].double(), y[train][:, columns].double()
        middle, mean = inputs.mean(0), outputs.mean(0)
        centred = inputs - middle
        gram = centred.T @ centred / len(inputs)
        gram += penalty * gram.diagonal().mean() * torch.eye(gram.shape[0], dtype=gram.dtype)
        weight = torch.linalg.solve(gram, centred.T @ (outputs - mean) / len(inputs))
        bias, true = mean - middle @ weight, y[held][:, columns].double()
        left = (x[held].double() @ weight + bias - true).square().sum(0)
        r2 = 1 - left / (true - true.mean(0)).square().sum(0).clamp(min=1e-12)
        result[columns] = torch.cat([weight.T, bias[:, None], r2[:, None]], 1).float()
    return result


def _quantile(values: Tensor, share: float) -> float:
    if not len(values):
        return math.nan
    ordered = values.sort().values
    return float(ordered[round(share * (len(ordered) - 1))])


@dataclass(frozen=True)
class Fitted:
    """A value and a policy learned for a guidance, of the shapes of the model's own."""

    value: ValueHeads
    actor: nn.Sequential


@dataclass(frozen=True)
class Head:
    """A reading of a reward from a latent, cut to 0..1; `weight` (F,) and `r2` as in `Probes`."""

    weight: Float[Tensor, " F"]
    bias: float
    r2: float

    def __call__(self, z: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        """Return the reward in latents."""
        return ((z if len(self.weight) == z.shape[-1] else lifted(z)) @ self.weight + self.bias).clamp(0, 1)


@dataclass(frozen=True)
class Guidance:
    """Terms over probes, one for each term in their order, perhaps a reward of its own, what was fitted; via-points."""

    terms: tuple[Term, ...]
    probes: Probes
    fitted: Fitted | None = None
    head: Head | None = None
    vias: tuple[Via, ...] = ()

    def reward(
        self, z: Float[Tensor, "*B D"], moved: Tensor | float = 0.0, w: Float[Tensor, "*B P"] | None = None
    ) -> Float[Tensor, "*B"]:
        """Return how well latents fulfil the guidance, 0 to 1: its terms' `closeness` times its head's reading.

        `moved` (*B, T) is added to what the probes read. `w`: the token after which the latents were imagined.
        """
        doubt = self.probes.doubt
        if doubt is not None:
            doubt = None if w is None else doubt * w.square().mean(-1, keepdim=True).sqrt()
        met = closeness(self.terms, self.probes(z) + moved, self.probes.high - self.probes.low, doubt)
        return met if self.head is None else met * self.head(z)


def closeness(
    terms: Sequence[Term],
    values: Float[Tensor, "*B T"],
    spread: Float[Tensor, " T"],
    doubt: Float[Tensor, "*B T"] | None = None,
) -> Float[Tensor, "*B"]:
    """Return 1 - log(1 + |d/s|) / log(1 + |R/s|), at least 0; d, s and R are vectors over the terms; `spread` is R.

    Each halving of a large distance counts the same, so that it leads from afar as well as it holds nearby; distances
    of all terms as one, so that none is left far off for the others. A term with two ends has its distance d from
    their middle, and s half its width; with one end, from a point beyond the end by s = SHARP R. With `doubt`, the
    standard deviation of the values' errors, d is the root of d^2 + (DOUBTED doubt)^2: nothing from afar, much nearby.
    """
    ends = [[float(getattr(term, end)) for term in terms] for end in ("low", "high")]
    low, high = torch.tensor(ends, dtype=values.dtype, device=values.device)
    spread = spread.to(values.device).clamp(min=1e-6)
    both = low.isfinite() & high.isfinite()
    sharp = torch.where(both, (high - low) / 2, SHARP * spread).clamp(min=1e-6)
    below = torch.where(both, (low + high) / 2, low + sharp) - values
    above = values - torch.where(both, (low + high) / 2, high - sharp)
    away = torch.maximum(below, above).clamp(min=0)
    if doubt is not None:
        away = torch.hypot(away, DOUBTED * doubt)
    farthest = torch.log1p((spread / sharp).norm()).clamp(min=1e-6)
    return (1 - torch.log1p((away / sharp).norm(dim=-1)) / farthest).clamp(min=0)


class Guided(WorldModel):
    """A world model under guidance: it shares the nets of `model`, but rewards, value and policy follow the guidance.

    Each is a mean of the model's own and the guidances', of which all weigh `weight` (0 to 1) together. Without a
    fitted value, the latent at the end of a plan counts for one token more: if it counted for all that follows, plans
    would only pass there, at any speed, rather than stay.

    Without anything fitted, a search finds what the model gets wrong. So a token counts for less the worse such tokens
    are foreseen (`Probes.doubted`), and readings are moved by `moved` (B, T), which follows from how B environments'
    last tokens turned out, as the disturbance of offset-free control (Pannocchia & Rawlings 2003, AIChE J. 49(2)). T
    are the terms of all such guidances.
    """

    def __init__(self, model: WorldModel, guidances: Sequence[tuple[Guidance, float]], weight: float, discount: float):
        """Guide `model` by guidances with positive weights among each other. `discount`: over one control step."""
        self.share(model)
        total = sum(each for _, each in guidances)
        self.guidances = [(guidance, weight * each / total) for guidance, each in guidances]
        self.own = 1 - weight
        self.steps = model.config.token.steps(discount)
        self.moved = torch.zeros(1, sum(len(guidance.terms) for guidance, _ in self.free), device=model.device)
        self.fitted = nn.ModuleList(
            [part for g, _ in guidances if g.fitted for part in (g.fitted.value, g.fitted.actor)]
        )

    def leash(self, config: PlannerConfig) -> PlannerConfig:
        """Return how far plans may stray from the policy, in a planner's settings.

        A fitted value was never corrected by trying: a free search finds its errors, one that is held to the policy by
        LEASH does not. Without a fitted policy there is none of the guidance's to be held to, or to stand in for plans.
        """
        share = sum(share for guidance, share in self.guidances if guidance.fitted)
        if not share:
            return replace(config, td_check_steps=0)
        return replace(config, anchor=max(config.anchor, LEASH * share * self.steps))

    @property
    def free(self) -> list[tuple[Guidance, float]]:
        """The guidances without a fitted policy, and their shares."""
        return [each for each in self.guidances if not each[0].fitted]

    def read(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B T"]:
        """Return what the probes of the free guidances read, moved."""
        return torch.cat([z[:, :0], *(guidance.probes(z) for guidance, _ in self.free)], -1) + self._moved(z)

    def _moved(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B T"]:
        """Return `moved` for rows that are each environment's candidates, one environment after the other."""
        return self.moved.repeat_interleave(len(z) // len(self.moved), 0)

    def learned(self, z: Float[Tensor, "B D"], foreseen: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Return `moved`, further by MOVED of how latents differ from what was `foreseen` to be read; NaN: not."""
        moved = self._moved(z)
        return moved + MOVED * (self.read(z) - moved - foreseen).nan_to_num(0.0)

    def guided_reward(self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"] | None = None) -> Float[Tensor, " B"]:
        """Return the guidances' weighted reward of one control step in latents, without the model's own.

        `w`: the token after which they were imagined.
        """
        fitted = [share * guidance.reward(z) for guidance, share in self.guidances if guidance.fitted]
        return sum(fitted, self._free_reward(z, w))

    def _free_reward(self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"] | None = None) -> Float[Tensor, " B"]:
        moved = self._moved(z).split([len(guidance.terms) for guidance, _ in self.free], -1)
        each = [share * guidance.reward(z, own, w) for (guidance, share), own in zip(self.free, moved, strict=True)]
        return sum(each, torch.zeros_like(z[..., 0]))

    def step(
        self, z: Float[Tensor, "B D"], w: Float[Tensor, "B P"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Imagine one token, as `WorldModel.step` does; its reward is what the guidance makes of the latent reached."""
        following, reward, continues = super().step(z, w)
        return following, self.own * reward + self.steps * self.guided_reward(following, w), continues

    def policy(self, z: Float[Tensor, "B D"]) -> SquashedGaussian:
        """Return the distribution over token points: logits are a weighted mean of the own policy's and the fitted.

        Those of a guidance without a fitted policy are 0: nothing says that the agent's own leads anywhere there.
        """
        shares = [(guidance.fitted.actor, share) for guidance, share in self.guidances if guidance.fitted]
        logits = self.own * self.actor(z)
        return self.distribution(sum((share * actor(z) for actor, share in shares), logits))

    def greedy_token(
        self, z: Float[Tensor, "B D"], start: Float[Tensor, "B A"] | None = None
    ) -> tuple[Float[Tensor, "B P"], Float[Tensor, " B"]]:
        """Return the policy's mode as a token, and its value: a weighted mean of the own and the guidances'."""
        w = self.token(self.policy(z).mode, start)
        value = torch.zeros_like(z[..., 0])
        if self.own:
            value = self.own * twohot_mean(self.value(z, w)).mean(0)
        for guidance, share in self.guidances:
            if guidance.fitted:
                value = value + share * twohot_mean(guidance.fitted.value(z, w)).amin(0)
        return w, value + self.steps * self._free_reward(z)
