"""Which of several guidances somebody may mean who shows a moment: a set that holds what is meant at a chosen rate.

A guidance is plausible if the agent reads it as fulfilled as well as in all but a share `miss` of the moments that
truly fulfil it and another one (conformal prediction; to ask where the set holds several: Ren et al. 2023, arXiv
2307.01928). Where only one is fulfilled, the set needs no such care.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from policies.guidance.compiling import Memory, fulfilled
from worldmodel.errors import UserError
from worldmodel.guidance import Guidance

MISS = 0.05


def levels(guidances: Sequence[Guidance], memory: Memory, miss: float = MISS) -> list[float]:
    """Return of each of G guidances the least `Guidance.reward` at which it is plausible, by remembered moments.

    By all that fulfil it if too few fulfil another, too. Raises UserError if those are too few as well.
    """
    true = torch.stack([fulfilled(guidance.terms, memory) for guidance in guidances])
    found = []
    for guidance, here in zip(guidances, true, strict=True):
        for moments in (here & (true.sum(0) > 1), here):
            good = guidance.reward(memory.remembered.z[moments]).sort().values
            rank = math.floor((len(good) + 1) * miss)
            if rank:
                break
        if not rank or not guidance.terms:
            raise UserError(f"of what is remembered, {len(good)} moments are as one wants; {1 / miss:.0f} needed")
        found.append(float(good[rank - 1]))
    return found


def plausible(guidances: Sequence[Guidance], least: Sequence[float], z: Float[Tensor, " D"]) -> list[int]:
    """Return the numbers of those that may be meant by a moment with this latent, the nearest among them."""
    read = [float(guidance.reward(z)) for guidance in guidances]
    nearest = read.index(max(read))
    return [at for at, value in enumerate(read) if at == nearest or value >= least[at]]
