"""Ways to say what an agent is to do instead of naming it: a moment to be at, examples, a function of the quantities.

Each compiles into terms over named quantities, or into a linear head, from what the agent remembers.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policies.guidance.storage import Reading
from policies.guidance.wishes import READABLE
from policies.tokens.curves import Curve
from worldmodel.errors import UserError, in_one_line
from worldmodel.guidance import Head
from worldmodel.guidance_fit import Remembered
from worldmodel.model import WorldModel
from worldmodel.probes import HELD_OUT, Probes
from worldmodel.replay import Replay, window_at
from worldmodel.settings import Term

WELL_READ = 0.9
"""The least R2 of a probe that says where a moment is."""
MOTION = re.compile(r"(velocity|speed|_vel)(\[\d+\])?$")
"""Names of quantities that say how it moves, not where it is."""
NEAR, LEAST = 0.05, 0.02
"""Shares of a quantity's range: how near a moment is near enough; the least half width of what examples agree on."""
AGREED = 0.5
"""Good examples agree on a quantity whose range among them leaves at most this share of the moments remembered."""
DETERMINED = 0.99
"""A quantity whose R2 from others, linearly, is at least this much, says nothing beside them."""
SAME = 1e-3
"""The share of a quantity's range by which another one may differ and be the same."""
COMPARED = 512
"""How many moments say which quantities are the same."""
EXAMPLES = 4
"""The least number of good examples."""
LINE = re.compile(r"(\d+)\s*,\s*(\d+)\s*,\s*(good|bad)")
AT_ONCE = 256
"""Moments encoded at a time."""


@dataclass(frozen=True)
class Memory:
    """N moments of a replay at which a token began: their latents (N, D) and quantities (N, Q), NaN where unknown.

    episode (N,): the number of each one's episode. names (Q,). step (N,): its control step within the episode.
    """

    remembered: Remembered
    quantities: Float[Tensor, "N Q"]
    names: tuple[str, ...]
    episode: Int[Tensor, " N"]
    step: Int[Tensor, " N"]

    @classmethod
    @torch.no_grad()
    def of(cls, replay: Replay, model: WorldModel, names: Sequence[str], most: int = 100_000) -> "Memory":
        """Encode the newest `most` moments of a replay whose tokens happened. Raises ValueError if it holds none."""
        env, row = in_order(replay)
        episode, step = numbered(replay, env, row)
        env, row, episode, step = (each[-most:] for each in (env, row, episode, step))
        curve = Curve.of_token(model.config.token, model.action_size)
        parts = []
        for e, r in zip(env.split(AT_ONCE), row.split(AT_ONCE), strict=True):
            window = window_at(replay, e, r, 1, curve.length)
            seen = model.preprocess(window.seen.map(lambda x: x.flatten(0, 1)))
            z = model.encode(seen).unflatten(0, (2, -1))
            parts.append(
                (z[0], curve.encode(window.action)[0], z[1], 1 - window.terminated[0].float(), window.valid[0])
            )
        z, token, following, continues, valid = (torch.cat(each) for each in zip(*parts, strict=True))
        kept = valid.bool()
        remembered = Remembered(z[kept], token[kept], following[kept], continues[kept])
        return cls(remembered, replay.quantities[env, row][kept], tuple(names), episode[kept], step[kept])

    def probes(self) -> Probes:
        """Fit a probe to each quantity."""
        return Probes.fit(self.names, self.remembered.z, self.quantities, self.episode)

    @torch.no_grad()
    def foreseeing(self, probes: Probes, model: WorldModel) -> Probes:
        """Return the probes fitted once more, to moments both as encoded and as imagined; r2 and ranges stay.

        A search reads what is imagined: where that differs from what is encoded, probes of the latter mislead.
        """
        z, length = self.remembered.z, model.config.token.length
        after = torch.arange(length, max(length, len(z)))
        after = after[self.episode[after] == self.episode[after - length]]
        after = after[self.step[after] - self.step[after - length] == length]
        parts = ((z[rows], self.remembered.token[rows]) for rows in (after - length).split(AT_ONCE))
        imagined = [model.next(model.transition_features(*part)) for part in parts]
        values, episode = (torch.cat([each, each[after]]) for each in (self.quantities, self.episode))
        fitted = Probes.fit(self.names, torch.cat([z, *imagined]), values, episode)
        held_out = episode[len(z) :] % HELD_OUT == 0
        known = self.remembered.token[after - length][held_out], self.quantities[after][held_out]
        doubt = fitted.doubted(torch.cat([z[:0], *imagined])[held_out], *known).doubt
        return replace(probes, weight=fitted.weight, bias=fitted.bias, doubt=doubt)


def in_order(replay: Replay) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Return environment and row of every step held, environment by environment, the oldest first."""
    env, row = [], []
    for e, filled in enumerate(replay.filled.tolist()):
        rows = (int(replay.head[e]) - torch.arange(filled - 1, -1, -1)) % replay.rows
        rows = rows[~replay.final[e, rows]]
        env.append(torch.full_like(rows, e))
        row.append(rows)
    return torch.cat(env), torch.cat(row)


def numbered(
    replay: Replay, env: Int[Tensor, " N"], row: Int[Tensor, " N"]
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Return the number of the episode, from 0, and the step within it, of rows in the order of `in_order`."""
    before = (row - 1) % replay.rows
    first = torch.ones_like(row, dtype=torch.bool)
    first[1:] = (env[1:] != env[:-1]) | (before[1:] != row[:-1]) | replay.final[env[1:], before[1:]]
    episode = first.long().cumsum(0) - 1
    begins = torch.arange(len(row))[first]
    return episode, torch.arange(len(row)) - begins[episode]


def equal(values: Float[Tensor, "N K"], others: Float[Tensor, "N Q"]) -> Bool[Tensor, "K Q"]:
    """Return which columns are the same but for rounding; one that does not vary is the same as none."""
    low, high = others.aminmax(dim=0)
    apart = (values[:, :, None] - others[:, None]).abs().amax(0)
    return (apart <= SAME * (high - low)) & varied(low, high)


def varied(low: Float[Tensor, " Q"], high: Float[Tensor, " Q"]) -> Bool[Tensor, " Q"]:
    """Return which quantities are no constants, but for rounding, by the least and largest value of each."""
    return high - low > 1e-6 * high.abs().clamp(min=1)


def readings(probes: Probes, units: dict[str, str]) -> dict[str, Reading]:
    """Return how each quantity is read, by name."""
    r2, low, high = (each.tolist() for each in (probes.r2, probes.low, probes.high))
    return {name: Reading(r2[i], low[i], high[i], units.get(name, "")) for i, name in enumerate(probes.names)}


def moment(memory: Memory, episode: int, step: int) -> int:
    """Return the row of a control step in the memory. Raises UserError if it is not there, as last ones."""
    here = memory.episode == episode
    if bool((found := here & (memory.step == step)).any()):
        return int(found.nonzero()[0])
    if bool(here.any()):
        steps = memory.step[here]
        raise UserError(f"step {step} of episode {episode}: it has steps {int(steps.min())} to {int(steps.max())}")
    there = f"{int(memory.episode.min())} to {int(memory.episode.max())}"
    raise UserError(f"episode {episode}: remembered are episodes {there}")


def near(z: Float[Tensor, " D"], probes: Probes, memory: Memory) -> tuple[Term, ...]:
    """Return the fewest terms that hold near the moment of the latent, of what probes read well. Raises UserError."""
    wide = probes.high > probes.low
    well = [probes.names[i] for i in ((probes.r2 >= WELL_READ) & wide).nonzero()[:, 0].tolist()]
    if not well:
        raise UserError(f"no quantity is read well (R2 of {WELL_READ}); show=quantities prints the table")
    names = independent(memory, [name for name in well if not MOTION.search(name)] or well)
    chosen = probes.chosen(names)
    half = NEAR * (chosen.high - chosen.low)
    return _terms(names, chosen(z).clamp(chosen.low, chosen.high), half)


def independent(memory: Memory, names: Sequence[str]) -> list[str]:
    """Return those of the quantities, in order, that the ones before do not determine linearly."""
    kept: list[str] = []
    for name in names:
        values = memory.quantities[:, [memory.names.index(each) for each in (*kept, name)]]
        values = values[values.isfinite().all(1)].double()
        values = values[:: len(values) // 2000 + 1]  # enough
        values = values - values.mean(0)
        x, y = values[:, :-1], values[:, -1:]
        left = y - x @ torch.linalg.lstsq(x, y).solution if kept else y
        if left.square().sum() > (1 - DETERMINED) * y.square().sum():
            kept.append(name)
    return kept


def _terms(names: Sequence[str], middle: Float[Tensor, " T"], half: Float[Tensor, " T"]) -> tuple[Term, ...]:
    """Return a term for each name, from `middle` - `half` to `middle` + `half`, to four digits of the latter."""
    result = []
    for name, at, width in zip(names, middle.tolist(), half.tolist(), strict=True):
        digits = 3 - math.floor(math.log10(width))
        result.append(Term(name, round(at - width, digits), round(at + width, digits)))
    return tuple(result)


def read_examples(examples: str, memory: Memory) -> tuple[Int[Tensor, " G"], Int[Tensor, " B"]]:
    """Return good and bad rows of the memory, by a CSV file (`3, 120, good`) or by `success`. Raises UserError."""
    key = f"examples={examples}"
    if examples == "success":
        if "success" not in memory.names:
            raise UserError(f"{key}: no such quantity was recorded; a file of lines `episode, step, good` (or bad)")
        success = memory.quantities[:, memory.names.index("success")]
        return (success > 0.5).nonzero()[:, 0], (success <= 0.5).nonzero()[:, 0]
    rows: dict[str, list[int]] = {"good": [], "bad": []}
    try:
        lines = [line for line in Path(examples).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key}: not readable ({error})") from error
    for at, line in enumerate(lines, 1):
        found = LINE.fullmatch(line.strip().lower())
        try:
            if found:
                rows[found[3]].append(moment(memory, int(found[1]), int(found[2])))
            elif at > 1 or not line.lower().startswith("episode"):  # a heading
                raise UserError(f"'{line.strip()}': episode, step, good or bad, e.g. 3, 120, good")
        except UserError as error:
            raise UserError(f"{key}: line {at}: {error}") from error
    if len(rows["good"]) < EXAMPLES:
        raise UserError(f"{key}: good moments: {len(rows['good'])}; at least {EXAMPLES}")
    good, bad = (torch.tensor(rows[kind], dtype=torch.long) for kind in ("good", "bad"))
    return good, bad


def alike(values: Float[Tensor, "G Q"], probes: Probes, memory: Memory) -> tuple[Term, ...]:
    """Return terms of what good moments have in common, by their quantities, against all that is remembered.

    One quantity is taken after another: that whose mean ± 2 standard deviations among the good ones leaves the fewest
    of the remembered moments that what was taken before has left, until none leaves less than AGREED: what merely
    follows is no wish. Of T quantities, each is to lie within the mean ± 2 standard deviations / sqrt(T): a box within
    the ellipsoid of the good ones. Raises UserError for too few, or if they agree on nothing.
    """
    if len(values) < EXAMPLES:
        raise UserError(f"examples=: {len(values)} good ones; at least {EXAMPLES}")
    able = (probes.r2 >= READABLE) & (probes.high > probes.low) & (values.isfinite().sum(0) >= EXAMPLES)
    able &= torch.tensor([name != "success" for name in probes.names])
    middle, spread = values.nanmean(0), (values - values.nanmean(0)).square().nanmean(0).sqrt()
    taken: list[int] = []
    whole = memory.quantities
    while len(whole) >= EXAMPLES:
        inside = (whole - middle).abs() <= 2 * spread
        left = torch.where(able, inside.float().mean(0), 1.0)
        best = int(left.argmin())
        if left[best] > AGREED:
            break
        taken.append(best)
        able[best] = False
        whole = whole[inside[:, best]]
    if not taken:
        raise UserError(f"examples=: the {len(values)} good ones agree on no quantity that the latent holds")
    names = [probes.names[i] for i in taken]
    least = LEAST * (probes.high - probes.low)[taken]
    return _terms(names, middle[taken], torch.maximum(2 * spread[taken] / math.sqrt(len(taken)), least))


def auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the probability that a score with a true label is above one with a false label, ties counting half."""
    yes, no = int(labels.sum()), int((~labels).sum())
    if not yes or not no:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return round(float((rank[labels].sum() - yes * (yes + 1) / 2) / (yes * no)), 4)


def rewarding(function: Callable, memory: Memory, key: str) -> Head:
    """Return a head that reads a reward from the latent: `function` of all quantities by name, each (N,), gives it.

    It is scaled such that its 1 and 99 % quantiles become 0 and 1. Raises UserError, naming the setting `key`, if the
    function fails or returns no (N,) numbers that vary, or if the latent does not hold it.
    """
    columns = {name: memory.quantities[:, i].clone() for i, name in enumerate(memory.names)}
    try:
        labels = torch.as_tensor(function(columns))
    except KeyError as error:
        raise UserError(f"{key}: no quantity {error}; there are {', '.join(memory.names)}") from error
    except Exception as error:  # of whatever the function does
        raise UserError(f"{key}: {type(error).__name__}: {in_one_line(error)}") from error
    if labels.shape != (len(memory.episode),) or labels.is_complex():
        raise UserError(f"{key}: returned {tuple(labels.shape)}; ({len(memory.episode)},), a reward for each moment")
    labels = labels.float()
    known = labels[labels.isfinite()].sort().values
    low, high = (float(known[round(share * (len(known) - 1))]) if len(known) else 0.0 for share in (0.01, 0.99))
    if not high > low:
        raise UserError(f"{key}: the same reward at (almost) every moment that is remembered")
    scaled = ((labels - low) / (high - low)).clamp(0, 1)
    fitted = Probes.fit(("reward",), memory.remembered.z, scaled[:, None], memory.episode)
    if not (r2 := float(fitted.r2[0])) >= READABLE:
        raise UserError(f"{key}: the latent does not hold it (R2 {r2:.2f} on held-out episodes, at least {READABLE})")
    return Head(fitted.weight[0], float(fitted.bias[0]), r2)


def fulfilled(terms: Sequence[Term], memory: Memory) -> Bool[Tensor, " N"]:
    """Return where in the memory every term holds, by the recorded values."""
    held = [term.holds(memory.quantities[:, memory.names.index(term.quantity)]) for term in terms]
    return torch.stack([torch.ones(len(memory.episode), dtype=torch.bool), *held]).all(0)
