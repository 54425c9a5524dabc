"""Measure the sets of guidances that a shown moment may mean: python tests/bench/ask_sets.py <cartpole run> <run> [...]

Each agent has three guidances, their probes fitted as by semagram-guide. It is shown COUNT moments of each that fulfil
it alone, and COUNT that fulfil another, too: of the other runs, which it never saw, and of every second episode of its
own, where the sets are made by the rest. Prints how often the set holds what was meant, and how often it asks.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from configs.runs.guiding import Known, remembered
from configs.schema import GuideConfig
from policies.guidance import wishes
from policies.guidance.compiling import Memory, fulfilled
from policies.guidance.shown import levels, plausible
from policies.storage.checkpoint import find_checkpoint
from worldmodel.guidance import Guidance
from worldmodel.guidance_fit import Remembered
from worldmodel.probes import nearby

WANTED = "pole_angle_cosine > 0.9", "cart_position > 0.3", "cart_position < -0.3"
COUNT = 300


def guidance(want: str, known: Known) -> Guidance:
    """Compile a wish as semagram-guide fit=false does."""
    terms = wishes.parse([want], known.spec.quantities)
    memory, names = known.memory, [term.quantity for term in terms]
    values = memory.quantities[:, [memory.names.index(name) for name in names]]
    near = terms, known.foreseeing.chosen(names), memory.remembered.z, values, memory.episode
    return Guidance(terms, nearby(*near, torch.Generator().manual_seed(0)))


def half(memory: Memory, odd: bool) -> Memory:
    """Return every second episode of a memory."""
    kept = (memory.episode % 2 == 1) == odd
    own = {name: getattr(memory, name)[kept] for name in ("quantities", "episode", "step")}
    return replace(memory, remembered=Remembered(*(each[kept] for each in vars(memory.remembered).values())), **own)


def shown(guidances: list[Guidance], by: Memory, others: list[Memory], miss: float) -> str:
    """Return what the sets made by a memory hold of moments of the `others`."""
    z, least, rng = (
        torch.cat([each.remembered.z for each in others]),
        levels(guidances, by, miss),
        np.random.default_rng(1),
    )
    true = torch.stack([torch.cat([fulfilled(each.terms, other) for other in others]) for each in guidances], -1)
    found = []
    for alone in (True, False):
        sets, holds = [], []
        for means in range(len(guidances)):
            may = (true[:, means] & ((true.sum(-1) == 1) == alone)).nonzero()[:, 0].numpy()
            own = [plausible(guidances, least, z[at]) for at in rng.choice(may, COUNT)]
            holds.append(np.mean([means in each for each in own]))
            sets += own
        asks = np.mean([len(each) > 1 for each in sets])
        kind = "one fulfilled" if alone else "two fulfilled"
        found.append(f"{kind}: holds {np.mean(holds):.3f} {np.round(holds, 2)}, asks {asks:.3f} of {len(sets)}")
    return "; ".join(found)


def main() -> None:
    """Run the command line."""
    for run in sys.argv[1:]:
        known = Known.of(GuideConfig(checkpoint=run, out="-", want=WANTED[0]))
        guidances = [guidance(want, known) for want in WANTED]
        others = [remembered(find_checkpoint(Path(each)), known.model) for each in sys.argv[1:] if each != run]
        for miss in (0.05, 0.1):
            print(f"{run}, {1 - miss:.0%}, other runs: {shown(guidances, known.memory, others, miss)}")
            own = [half(known.memory, odd) for odd in (False, True)]
            print(f"{run}, {1 - miss:.0%}, own episodes: {shown(guidances, own[0], own[1:], miss)}")


if __name__ == "__main__":
    main()
