"""semagram-why: one decision of an evaluation as a page that opens offline, with its graph as JSON beside it."""

import copy
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs.page import inline, jpeg, page, short
from configs.reporting import say
from configs.runs.evaluation import Evaluation
from configs.runs.film import motions, sentence
from configs.runs.moments import Moment, followed, last_asked, planned_anew, played_again, recorded_again
from configs.schema import EvaluateConfig, WhyConfig
from envs.arm import LAG
from policies.agent import Agent
from policies.decisions.graph import Explained, Explainer, Usual
from policies.decisions.schema import as_json
from policies.decisions.trace import rejected
from policies.glyphs.glyph import glyph
from policies.glyphs.ink import svg
from policies.guidance.compiling import Memory, equal, independent
from policies.guidance.wishes import READABLE
from policies.storage.checkpoint import find_checkpoint, read_replay
from policies.storage.folders import aside_of, replace_file
from sim.so101.joints import JOINTS
from worldmodel.attribution import Followed, follow
from worldmodel.errors import UserError
from worldmodel.mppi import mppi
from worldmodel.planner import join
from worldmodel.probes import Probes
from worldmodel.replay import sample_starts, window_at
from worldmodel.senses import STATE_KEY

SLOT = "/*data*/"
LAGS = {f"{LAG}[{i}]": f"{joint}.{LAG}" for i, joint in enumerate(JOINTS)}  # how the page names the arm's lags
MOMENTS, SAMPLED = 10_000, 64
"""How many of the newest remembered moments say what is usual, and how many give the usual features of a sense."""
SHOWN, PAIRED, CAME = 8, 4, 4
"""How many interventions on single groups, and on pairs and half of the way, the page's table shows; how many
quantities it follows."""


def why(config: WhyConfig, _folder: Path) -> dict:
    """Explain the decision that was current at `step` of `episode`, and some before and after it; write the page."""
    return Why(config).run()


def placed(out: Path) -> Path:
    """Return `out`. Raises UserError unless a page can be written there, and its graph beside it."""
    if out.suffix != ".html":
        raise UserError(f"out={out}: a file ending in .html")
    if not out.parent.is_dir():
        raise UserError(f"out={out}: there is no folder {out.parent}")
    if taken := [path for path in (out, out.with_suffix(".json")) if path.is_dir()]:
        raise UserError(f"out={out}: {taken[0]} is a folder")
    try:
        with aside_of(out) as aside:
            aside.touch()
    except OSError as error:
        raise UserError(f"out={out}: {error.strerror}; in a folder that can be written to") from error
    return out


class Why:
    """One call of semagram-why. Raises ConfigError, FolderError, UserError."""

    def __init__(self, config: WhyConfig):
        self.config, count = config, max(config.episodes, config.episode + 1)
        name = "why-live.html" if config.live else f"why-episode{config.episode}-step{config.step}.html"
        self.out = placed(Path(config.out or name))
        self.question = last_asked(config.live) if config.live else None  # at once, as the arm goes on
        found = str(find_checkpoint(Path(config.run), "run"))
        keys = EvaluateConfig(
            threads=config.threads, compile="false", checkpoint=found, episodes=count, seed=config.seed
        )
        self.evaluation = Evaluation.begin(replace(keys, guidance=config.guidance))
        self.loaded = self.evaluation.loaded

    def run(self) -> dict:
        """Do it. Returns the last line."""
        config, usual = self.config, self.usual()
        where = config.episode, config.step, config.around
        if self.question:
            moments, asked, env = planned_anew(self.evaluation, self.question)
        elif config.data:
            moments, asked, env = recorded_again(self.evaluation, config.data, *where)
        else:
            moments, asked, env = played_again(self.evaluation, *where)
        labels = [self.same.get(i, LAGS.get(label, label)) for i, label in enumerate(env["labels"])]
        self.rate, self.units = env["render_fps"], env["quantities"]
        agent, token = self.evaluation.agent(True), self.loaded.spec.model.token
        model = copy.deepcopy(agent.model)
        self.explainer = Explainer(model, token.discount(self.loaded.spec.discount), usual, labels)
        shown, graphs = [], []
        for n, moment in enumerate(moments):
            really = (
                None
                if config.data or config.live
                else followed(self.evaluation, config.episode, moment, self.explainer)
            )
            began = time.perf_counter()
            explained = self.explainer.explain(moment.seen, moment.reached, moment.tokens, really)
            seconds = time.perf_counter() - began
            graphs.append((explained, self._graph(moment, explained), seconds))
            shown.append(self._shown(agent, moment, *graphs[-1]) | {"came": self._came(explained.path, really)})
            say(f"step {moment.step}: {len(explained.shown.nodes)} nodes{' (asked)' if n == asked else ''}")
        task, path = self.loaded.task.label, str(self.loaded.path)
        about = {"task": task, "checkpoint": path, "episode": config.episode, "asked": asked, "given": model.shared}
        text = json.dumps(about | {"moments": shown}, separators=(",", ":"), allow_nan=False)
        html = page("decision").replace(SLOT, text.replace("<", "\\u003c"), 1)
        explained, graph, seconds = graphs[asked]
        beside = self.out.with_suffix(".json")
        replace_file(beside, json.dumps(graph, allow_nan=False).encode())
        replace_file(self.out, html.encode())
        measures = {name: round(value, 4) for name, value in explained.measures.items()}
        result = {"page": str(self.out), "graph": str(beside), "step": moments[asked].step}
        return result | {"nodes": len(graph["nodes"]), "seconds": round(seconds, 3), **measures}

    def usual(self) -> Usual:
        """Return what is usual, by the checkpoint's replay. Raises FolderError without one.

        And find which numbers of the state are named quantities: `same`, names by place.
        """
        path, spec, model = self.loaded.path, self.loaded.spec, self.loaded.agent.model
        replay = read_replay(path, spec.senses, spec.model.vision.frame_lags)
        memory = Memory.of(replay, model, tuple(spec.quantities), MOMENTS)
        env, row = sample_starts(replay, SAMPLED, torch.Generator().manual_seed(0))
        seen = model.preprocess(window_at(replay, env, row, 1, 1).seen.map(lambda x: x[0]))
        with torch.no_grad():
            features = model.encode_each(seen).mean(0)
        state = replay.seen[STATE_KEY][env, row] if STATE_KEY in replay.seen else torch.zeros(SAMPLED, 0)
        same = equal(state, replay.quantities[env, row]).nonzero().flip(0).tolist()  # of several, the first
        self.same = {i: memory.names[q] for i, q in same if "[" not in memory.names[q]}
        z, token = memory.remembered.z, memory.remembered.token
        probes = Probes.fit(memory.names, z, memory.quantities, memory.episode, linear=True)
        ranked = sorted(range(len(memory.names)), key=lambda q: ("[" in memory.names[q], -float(probes.r2[q])))
        said = independent(memory, [memory.names[q] for q in ranked if probes.r2[q] >= READABLE])
        return Usual(z.mean(0), token.mean(0), features, probes.chosen(said))

    def _graph(self, moment: Moment, explained: Explained) -> dict:
        episode, step, task = self.config.episode, moment.step, self.loaded.task.label
        total = f"{float(explained.path.total):.3g}"
        prompt = f"{task}, episode {episode}, step {step}: what the plan's return of {total} is made of"
        slug = f"{task.replace('/', '-')}-{episode}-{step}"
        return as_json(explained, self.explainer.inputs, slug, f"semagram-{task}", prompt)

    def _shown(self, agent: Agent, moment: Moment, explained: Explained, graph: dict, seconds: float) -> dict:
        """Return what the page shows of one decision, as plain data."""
        clamps = *explained.single, *explained.rest
        tried = {clamp.held: [short(clamp.predicted), short(clamp.measured)] for clamp in clamps}
        nodes = {
            at["node_id"]: {
                **{"kind": node.kind, "step": node.step, "number": node.number, "label": node.label},
                "holds": [[name, round(share, 3), self.units.get(name, "")] for name, share in node.holds],
                "clamp": tried[node.places] if node.kind == "group" else None,
                "several": len(node.places) > 1,
            }
            for node, at in zip(explained.shown.nodes, graph["nodes"], strict=True)
        }
        single = sorted(explained.single, key=lambda clamp: -abs(clamp.predicted))[:SHOWN]
        halves = {clamp.held: clamp for clamp in explained.half}
        half = [halves[each.held] for each in single[:PAIRED]]
        names = {(node.step, node.number): node.label for node in explained.graph.nodes if node.kind == "group"}
        table = [
            {
                "held": [[h, names[h, g], g] for h, g in clamp.held],
                "share": clamp.share,
                "predicted": short(clamp.predicted),
                "measured": short(clamp.measured),
            }
            for clamp in (*single, *half, *explained.pairs[:PAIRED], explained.together[0])
        ]
        path = explained.path
        return {
            "step": moment.step,
            "seconds": round(moment.step / self.rate, 3),
            "picture": None if moment.picture is None else jpeg(moment.picture),
            "by_policy": moment.by_policy,
            "recorded": None if moment.recorded is None else [short(x) for x in moment.recorded.tolist()],
            "total": short(float(path.total)),
            "rewards": [short(x) for x in (path.of_reward * path.reward)[0].tolist()],
            "value": short(float(path.of_value * path.value)),
            "tokens": [[short(x) for x in token] for token in moment.tokens.tolist()],
            "inputs": self._inputs(moment, explained),
            "quantities": self._quantities(moment),
            "plans": self._plans(agent, moment),
            "clamps": table,
            "nodes": nodes,
            "graph": graph,
            "measures": {name: round(value, 4) for name, value in explained.measures.items()},
            "explained_in": round(seconds, 3),
        }

    def _inputs(self, moment: Moment, explained: Explained) -> list[dict]:
        """Return each input of the encoder: its value, the usual one, its effect, and what would be done without it."""
        explainer, planner = self.explainer, self.evaluation.agent(True).planner
        given = explainer.encoder(moment.seen, moment.reached)
        roots = given.encode(torch.cat([given.given[None], torch.where(given.member, given.usual, given.given)]))
        actions: list = [None] * len(roots)
        if planner is not None and planner.algorithm is None:
            config, shape = planner.config, (self.explainer.model.points,)
            lead = config.iterations, config.horizon, 1, config.samples
            noise = torch.randn(lead + shape, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                anew = mppi(explainer.search, roots.detach(), None, noise.expand(-1, -1, len(roots), -1, -1), config)
            actions = [[short(x) for x in row] for row in anew.tokens[0].tolist()]
        state = moment.seen.values[STATE_KEY][0].tolist() if STATE_KEY in moment.seen.values else []
        usual = explainer.model.normaliser.mean.tolist()
        return [
            {
                "name": name,
                "value": short(state[i]) if i < len(state) else None,
                "usual": short(usual[i]) if i < len(state) else None,
                "effect": short(explained.graph.nodes[i].effect),
                "action": actions[0],
                "instead": actions[i + 1],
            }
            for i, name in enumerate(explainer.inputs)
        ]

    def _quantities(self, moment: Moment) -> list[dict]:
        """Return the quantities that the latent holds: the true value, what a probe reads, and the range seen."""
        probes, known = self.explainer.probes, dict(zip(self.units, moment.quantities.tolist(), strict=False))
        read = probes(self.explainer.encode(moment.seen))[0].tolist()
        rows = zip(probes.names, read, probes.low.tolist(), probes.high.tolist(), probes.r2.tolist(), strict=True)
        return [
            {
                **{"name": name, "unit": self.units.get(name, ""), "read": short(value), "r2": short(r2)},
                **{"low": short(low), "high": short(high), "true": short(known.get(name, np.nan))},
            }
            for name, value, low, high, r2 in rows
        ]

    def _came(self, path: Followed, really: Tensor | None) -> list[dict]:
        """Return the quantities that were to change most: after each token as imagined, and as they really were."""
        probes, size = self.explainer.probes, self.explainer.model.config.latent
        if really is None or not probes.names:
            return []
        read, real = probes(path.states[0, :, :size]), probes(really[:, :size])
        imagined = read[1:]
        pairs = torch.stack([imagined, real], -1)
        moved = (imagined - read[0]).abs().amax(0) / (probes.high - probes.low).clamp(min=1e-9)
        return [
            {
                **{"name": probes.names[q], "unit": self.units.get(probes.names[q], "")},
                "steps": [[short(x) for x in pair] for pair in pairs[:, q].tolist()],
            }
            for q in moved.argsort(descending=True)[:CAME].tolist()
        ]

    def _plans(self, agent: Agent, moment: Moment) -> list[dict]:
        """Return the chosen plan, alternatives and the policy's, each with its glyph, its return and what it lacks."""
        explainer, plan = self.explainer, moment.plan
        elites, returns = plan.elites[:, 0], plan.returns[0]
        lost = rejected(elites.numpy(), returns.numpy(), plan.tokens[:, 0].numpy())
        root = join(explainer.encode(moment.seen), moment.reached[None])
        with torch.no_grad():
            mode = explainer.search.propose(root, torch.zeros(len(elites), 1, 1, elites.shape[-1]))[:, 0, 0]
        tokens = torch.stack([moment.tokens, *(elites[:, e] for e in lost), mode], 1)
        path = follow(explainer.search, root.expand(tokens.shape[1], -1), tokens)
        rewards, values = (path.of_reward * path.reward).sum(1), path.of_value * path.value
        step = 1 / self.rate
        names = ["the plan", *(f"alternative {n + 1}" for n in range(len(lost))), "the policy's own"]
        weights = [None, *plan.weights[0, lost].tolist(), None]
        found = []
        for k, name in enumerate(names):
            drawn = sentence(plan, agent.curve, step) if k == 0 and not moment.by_policy else None
            drawn = drawn or motions(tokens[:, k], agent.curve, step)
            found.append(
                {
                    **{"name": name, "svg": inline(svg(glyph(drawn), name)), "total": short(float(path.total[k]))},
                    "apart": short(float(path.total[k] - path.total[0])),
                    **{"reward": short(float(rewards[k])), "value": short(float(values[k]))},
                    "weight": None if weights[k] is None else short(float(weights[k])),
                    "why": self._lost(path.total - path.total[0], rewards - rewards[0], path.states[:, -1], k),
                }
            )
        return found

    def _lost(self, total: Tensor, reward: Tensor, last: Tensor, k: int) -> str:
        """Say in a line what sets a plan apart from the chosen one."""
        if k == 0:
            return ""
        whole, by_rewards, by_value = (round(float(x), 6) for x in (total[k], reward[k], total[k] - reward[k]))
        parts = f"{whole:+.3g}: {by_rewards:+.3g} by rewards, {by_value:+.3g} by the value at its end".replace("-", "−")
        if not (probes := self.explainer.probes).names:
            return parts
        read = probes(last[:, : self.explainer.model.config.latent])
        apart = (read[k] - read[0]) / (probes.high - probes.low).clamp(min=1e-9)
        most = int(apart.abs().argmax())
        name, off = probes.names[most], float(read[k, most] - read[0, most])
        return f"{parts}, where {name} is {abs(off):.2g} {self.units.get(name, '')} {'higher' if off > 0 else 'lower'}"
