"""A decision's graph in circuit-tracer's and Neuronpedia's schema: {metadata, qParams, nodes, links}."""

from collections.abc import Sequence

import torch

from policies.decisions.graph import Explained
from worldmodel.attribution import influence


def as_json(explained: Explained, names: Sequence[str], slug: str, scan: str, prompt: str) -> dict:
    """Return a graph in circuit-tracer's and Neuronpedia's schema, as it is shown.

    `names`: the inputs of the encoder. They, and what is the rest of them, are the first of the prompt's tokens,
    followed by the steps and tokens in order of time. An outcome's `p` is its share of all outcomes; `influence` is
    cumulative, small for what matters.
    """
    shown, horizon = explained.shown, len(explained.tokens)
    names = [*names, *(node.label for node in shown.nodes if node.kind == "input" and node.number == len(names))]
    count, prompt_tokens = len(names), [*names, "now"]
    for h in range(horizon):
        prompt_tokens += [f"token {h + 1}", f"step {h + 1}"]
    _, total = influence(shown.weight, shown.ends)
    order = total.argsort(descending=True)
    cumulative = torch.empty_like(total)
    cumulative[order] = total[order].cumsum(0) / total.sum().clamp(min=1e-20)
    ids, nodes = {}, []
    for n, node in enumerate(shown.nodes):
        share = float(shown.ends[n])
        layer, feature, at = str(node.step), node.number, count + 2 * node.step
        match node.kind:
            case "input" | "token":
                at = node.number if node.kind == "input" else count + 2 * node.step + 1
                ids[n], kind, layer, feature = f"E_{node.number}_{at}", "embedding", "E", at
                js, label = f"E_{node.number}-{at}", f'Emb: "{prompt_tokens[at]}"'
            case "error":
                ids[n], kind, feature = f"0_{layer}_{at}", "mlp reconstruction error", -1
                js, label = f"{layer}_{at}-0", f"Err: {node.label}"
            case "group":
                paired = (node.step + feature) * (node.step + feature + 1) // 2 + feature
                ids[n], kind, js = f"{layer}_{feature}_{at}", "cross layer transcoder", f"{layer}_{feature}-0"
                label, feature = node.label, paired
            case _:
                layer, at = str(horizon + 1), count + 2 * horizon
                ids[n], kind = f"{layer}_{node.number}_{at}", "logit"
                js, label = f"L_{node.number}-{at}", f'Output "{node.label}" (p={share:.3f})'
        nodes.append(
            {
                "node_id": ids[n],
                "feature": feature,
                "layer": layer,
                "ctx_idx": at,
                "feature_type": kind,
                "token_prob": share if node.kind == "outcome" else 0.0,
                "is_target_logit": node.kind == "outcome" and node.number == 2 * horizon,
                "run_idx": 0,
                "reverse_ctx_idx": 0,
                "jsNodeId": js,
                "clerp": label,
                "influence": None if node.kind == "outcome" else round(float(cumulative[n]), 4),
                "activation": float(f"{node.effect:.4g}"),
            }
        )
    links = [
        {"source": ids[j], "target": ids[i], "weight": float(f"{float(shown.weight[i, j]):.4g}")}
        for i, j in shown.weight.nonzero().tolist()
    ]
    metadata = {
        **{"slug": slug, "scan": scan, "transcoder_list": [], "prompt_tokens": prompt_tokens, "prompt": prompt},
        **{"node_threshold": 1.0, "schema_version": 1},
        "pruning_settings": {"node_threshold": 1.0, "edge_threshold": 0.98},
        "info": {"description": prompt, "generator": {"name": "semagram"}},
    }
    params = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    return {"metadata": metadata, "qParams": params, "nodes": nodes, "links": links}
