"""A planner of one's own: the best of many rollouts of the policy, without any refinement.

semagram-train plugins=[docs/examples/own_planner.py] planner.algorithm=shooting
semagram-eval checkpoint=runs/last plugins=[docs/examples/own_planner.py] planner.algorithm=shooting
"""

import torch
from semagram import Plan, register, rollout


@register("planner", "shooting")
def shooting(search, root, warm_start, noise, config, late) -> Plan:
    """Score noisy rollouts of the policy from each root (B, S); `noise` is (iterations, T, B, N, P)."""
    candidates, returns = rollout(search, root, search.propose(root, noise[0]))
    returns, order = returns.nan_to_num(-torch.inf).topk(config.elites, -1)
    elites = candidates.gather(2, order[None, :, :, None].expand(len(candidates), -1, -1, candidates.shape[-1]))
    weights = torch.zeros_like(returns)
    weights[:, 0] = 1
    return Plan(elites[:, :, 0], elites.std(2, correction=0), returns, weights, elites, root)
