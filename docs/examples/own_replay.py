"""A replay of one's own: half of each batch begins at one of the newest 2,000 steps.

semagram-train plugins=[docs/examples/own_replay.py] replay.sampler=recent
"""

import torch
from semagram import register, sample_starts, window_at


@register("sampler", "recent")
def recent(replay, batch, horizon, length, generator, demonstrated):
    """Return `batch` windows of `horizon` tokens of `length` control steps; no demonstrations."""
    env, row = sample_starts(replay, batch - batch // 2, generator)
    newest = torch.randint(len(replay.head), (batch // 2,), generator=generator)
    most = replay.filled[newest].clamp(max=2000)
    age = 1 + (torch.rand(len(most), generator=generator) * (most - 1)).long()
    rows = (replay.head[newest] - age) % replay.rows
    known = ~replay.final[newest, rows]
    env, row = torch.cat([env, newest[known]]), torch.cat([row, rows[known]])
    more = sample_starts(replay, batch - len(env), generator)
    return window_at(replay, torch.cat([env, more[0]]), torch.cat([row, more[1]]), horizon, length)
