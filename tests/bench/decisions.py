"""How far graphs of decisions can be trusted, and what a trace costs: python tests/bench/decisions.py <run> [plans].

Plans are those of the evaluation's episode 0, one in every so many steps; if it has too few that can be carried out to
their ends, those of the first episodes of the next seeds, too. The trace is timed in turns with none.
`python tests/bench/decisions.py <run> mend <episode> <step>` plays the episode really, once for each number of the
state that shows the usual at that one decision, and a few times as it is.
"""

import json
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import torch

from configs.runs.evaluation import Evaluation
from configs.runs.explaining import Why
from configs.runs.moments import followed, played_again
from configs.schema import EvaluateConfig, WhyConfig
from policies.decisions.graph import Explainer
from policies.decisions.trace import Trace, files
from policies.training.episodes import Episodes, episode_seed, play
from worldmodel.senses import STATE_KEY

LEFT_OUT, TURNS = 20, 400


def graphs(run: str, count: int) -> list[dict]:
    """Measure the graphs of `count` plans."""
    usual, found, seed = None, [], WhyConfig(run=run).seed
    while len(found) < count:
        why = Why(WhyConfig(run=run, episodes=1, seed=seed, out=f"{tempfile.gettempdir()}/none.html"))
        usual, seed = usual or why.usual(), seed + 1
        with torch.no_grad():
            moments, _, env = played_again(why.evaluation, 0, 0, 10**6)
        token = why.loaded.spec.model.token
        agent = why.evaluation.agent(True)
        explainer = Explainer(agent.model, token.discount(why.loaded.spec.discount), usual, env["labels"])
        moments = [each for each in moments if not each.by_policy]
        for moment in moments[:: max(1, len(moments) // count)][: count - len(found)]:
            if (really := followed(why.evaluation, 0, moment, explainer)) is None:
                continue  # nothing came that could have been otherwise than imagined
            began = time.perf_counter()
            explained = explainer.explain(moment.seen, moment.reached, moment.tokens, really)
            seconds = time.perf_counter() - began
            top, drawn = explained.together
            more = {"nodes": len(explained.shown.nodes), "seconds": seconds}
            more |= {
                "top8": abs(top.measured),
                "random8": abs(drawn.measured),
                "top8_off": abs(top.predicted - top.measured),
            }
            found.append(explained.measures | more)
    return found


def traced(run: str) -> dict:
    """Time decisions with a trace and without, in turns, on one observation."""
    why = Why(WhyConfig(run=run, out=f"{tempfile.gettempdir()}/none.html"))
    agent, took = why.evaluation.agent(True), ([], [])
    seen = agent.model.blank(1)
    with tempfile.TemporaryDirectory() as folder:
        trace = Trace(Path(folder), {})
        for turn in range(TURNS):
            agent.trace = trace if turn % 2 else None
            began = time.process_time()
            for _ in range(5):
                agent.decide(seen)
            took[turn % 2].append(time.process_time() - began)
        trace.close()
        size = sum(path.stat().st_size for path in files(Path(folder)))
    without, with_it = (sum(each[LEFT_OUT:]) / len(each[LEFT_OUT:]) / 5 * 1000 for each in took)
    plans = TURNS // 2 * 5
    return {"cpu_ms_without": without, "cpu_ms_with": with_it, "share": with_it / without - 1, "bytes": size / plans}


def mend(run: str, episode: int, step: int) -> None:
    """Print the episode's return if one number of the state had shown the usual at `step`, and as it is."""
    evaluation = Evaluation.begin(EvaluateConfig(checkpoint=run, compile="false"))
    agent, usual = evaluation.agent(True), evaluation.loaded.agent.model.normaliser.mean
    with closing(evaluation.episodes()) as episodes:
        env, seed = episodes.batch(0), episode_seed(evaluation.config.seed, 1, episode, 0)
        running, names = Episodes(env, agent.model.senses, lambda i, number: seed), env.metadata["labels"]
        returns = torch.zeros(env.num_envs)

        def act(seen, own):
            if int(running.lengths[0]) == step:
                state = seen.values[STATE_KEY].clone()
                state[range(len(usual)), range(len(usual))] = usual
                seen = seen.with_values({STATE_KEY: state})
            return agent.act(seen, own)

        play(running, agent, episodes.limit, lambda made: returns.add_(made.reward) is None, once=True, act=act)
    for name, value in zip([*names, *["as it is"] * (len(returns) - len(usual))], returns.tolist(), strict=True):
        print(f"{name:20} {value:.1f}")


def main() -> None:
    """Print a line of means, medians and the least of each measure."""
    if sys.argv[2:3] == ["mend"]:
        return mend(sys.argv[1], *map(int, sys.argv[3:5]))
    run, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 50
    found = graphs(run, count)
    for name in found[0]:
        values = [each[name] for each in found]
        print(
            f"{name:20} mean {statistics.mean(values):8.4f} median {statistics.median(values):8.4f} "
            f"least {min(values):8.4f} most {max(values):8.4f}"
        )
    ratio = sum(each["top8"] for each in found) / sum(each["random8"] for each in found)
    print(json.dumps({"run": run, "plans": len(found), "top8_over_random_of_means": round(ratio, 2)} | traced(run)))


if __name__ == "__main__":
    main()
