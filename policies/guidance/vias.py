"""Via-points that an agent keeps to while it acts: when they are due, and what they ask of the plans of the moment."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policies.tokens.curves import Curve
from worldmodel.guidance import Guidance
from worldmodel.mppi import Pins
from worldmodel.observation import Observation
from worldmodel.senses import STATE_KEY
from worldmodel.settings import Via


class Vias:
    """Vias of B environments: control steps since taken (B,), and whether the newest plans pass some (`pinned`)."""

    def __init__(self) -> None:
        self.take((), 0.0)

    def take(self, guidances: Sequence[tuple[Guidance, float]], weight: float) -> None:
        """Keep to those of the guidances from now on. The smaller the `weight`, the larger the deviations; 0: none."""
        self.each: list[Via] = [via for guidance, _ in guidances for via in guidance.vias] if weight else []
        self.weight, self.clock, self.pinned = weight, torch.zeros(0, dtype=torch.long), torch.zeros(0) > 0

    def now(self, count: int) -> Int[Tensor, " B"]:
        """Return the clock of `count` environments, which begins anew if they were others before."""
        return self.clock if len(self.clock) == count else torch.zeros(count, dtype=torch.long)

    def reset(self, ended: Bool[Tensor, " B"]) -> None:
        """Begin anew in the environments (B,) whose episode ended."""
        self.clock = torch.where(ended, 0, self.now(len(ended)))

    def pins(self, seen: Observation, reached: Float[Tensor, "B S"], curve: Curve, horizon: int) -> Pins | None:
        """Return what plans from here are to pass, or None; `reached`: where joined curves end."""
        now, joined, pins = self.now(len(seen)), bool(reached.shape[-1]), list[tuple[Tensor, Tensor, Tensor]]()
        self.pinned = torch.zeros(len(seen), dtype=torch.bool)
        for via in self.each:
            rows, start = readings(curve, horizon, bool(via.state), joined)
            at = (via.step - now - 1).clamp(0, len(rows) - 1)
            due, value = at == via.step - now - 1, torch.full((len(seen),), via.goal)
            if via.state:
                due &= seen.present[STATE_KEY].cpu()
                value -= seen.values[STATE_KEY].cpu()[:, [*via.state]].sum(-1) / via.span
            if joined:
                value -= start[at] * reached[:, via.action]
            row = torch.zeros(len(seen), horizon, curve.control_points, curve.action_size)
            row[due, ..., via.action] = rows[at[due]]
            pins.append((row.flatten(2), value * due, torch.where(due, via.deviation / self.weight, 1.0)))
            self.pinned |= due
        return Pins(*(torch.stack(each, 1) for each in zip(*pins, strict=True))) if self.pinned.any() else None


def readings(
    curve: Curve, horizon: int, summed: bool, joined: bool
) -> tuple[Float[Tensor, "N T K"], Float[Tensor, " N"]]:
    """Return what each of a plan's N actions, or `summed` all up to it, is in control points of one action dimension.

    If tokens are joined, each begins with the last control point of the one before; the second result is the weight of
    what the first begins with, which is not chosen.
    """
    rows = torch.block_diag(*[curve.weights] * horizon).unflatten(1, (horizon, -1))
    rows = rows.cumsum(0) if summed else rows
    start = rows[:, 0, 0].clone()
    if joined:
        rows[:, :-1, -1] += rows[:, 1:, 0]
        rows[:, :, 0] = 0
    return rows, start
