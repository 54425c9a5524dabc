"""How often agents get stuck by faults, who notices, and what the ladder mends: tasks x faults x monitors."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest

from configs.reporting import say
from configs.runs.evaluation import Evaluation
from configs.runs.loading import said
from configs.schema import BenchConfig, EvaluateConfig
from envs.settings import HARMLESS, FaultConfig, folder_name
from policies.alarms import FILE, GAUGES, Alarms
from policies.cases import Uses
from policies.guidance.compiling import auc
from policies.ladder import BACK_OFF, BUDGETS, STOP, TOOL, Ladder
from policies.storage.folders import replace_file
from worldmodel.errors import UserError
from worldmodel.strict import ConfigError

SEEDS = 12, 13  # of the good episodes and of those with a fault, other than those that alarms were made from
LEARN = "learn"
LEARN_SEED, LEARNED = 14, 20
"""Where the ladder has tools, it first plays so many episodes of each fault, of that seed, to know what they bring."""
GOOD = 0.8  # share of a good episode's reward that counts as good as one
LAST = 0.1  # share of an episode at its end by which it is judged
NONE, ELAPSED, CONSTANT, RANDOM, ORACLE, OURS = "none", "elapsed", "constant", "random", "oracle", "ours"
MONITORS = NONE, ELAPSED, CONSTANT, RANDOM, ORACLE, OURS
NOMINAL = "nominal"
JUDGED = "auroc", "detected", "false_alarms", "delay_decisions", "success", "wasted"


def stuck(config: BenchConfig, folder: Path) -> dict:
    """Play every checkpoint with and without each fault and the ladder, what is not played yet, and judge the monitors.

    Leaves a file for each set of episodes and stuck.csv in `folder`. Raises UserError, FolderError.
    """
    if not config.checkpoints:
        raise ConfigError("checkpoint=: runs or checkpoints with alarms, e.g. checkpoint=[runs/walker-walk/<run>]")
    faults, rows = [FaultConfig.of(each) for each in config.faults], []
    for path in config.checkpoints:
        own = EvaluateConfig(checkpoint=path, device=config.device, threads=config.threads, compile="false")
        own = replace(own, ladder=True, tools=config.tools)
        evaluation = Evaluation.begin(own)
        alarms = Alarms.kept(evaluation.loaded.path)
        if alarms is None:
            raise UserError(f"{evaluation.loaded.path / FILE}: not there; semagram-eval calibrate=100 makes it")
        rows += _Played(evaluation, alarms, folder).rows(faults, config.episodes, config.fault_episodes)
        lines = [rows[0], *(row.values() for row in rows)]
        text = "".join(",".join("" if each is None else str(each) for each in line) + "\n" for line in lines)
        replace_file(folder / "stuck.csv", text.encode())
    return {"suite": config.suite, "rows": rows, "out": str(folder)}


class _Played:
    """The episodes of one checkpoint."""

    def __init__(self, evaluation: Evaluation, alarms: Alarms, folder: Path):
        self.evaluation, self.alarms = evaluation, alarms
        self.folder = folder / f"{folder_name(evaluation.loaded.task.label)}-{alarms.checkpoint[:8]}"
        path, self.tools = evaluation.loaded.path, evaluation.config.tools
        self.known, self.learned = dict[str, list](), list[str]()  # uses of tools; of which faults
        self.task, self.seed = evaluation.loaded.task.label, said(path.parent.parent / "summary.json").get("seed")
        self.length = evaluation.agent(True).curve.length

    def rows(self, faults: Sequence[FaultConfig], good: int, bad: int) -> list[dict]:
        """Return a row for each fault and monitor, those of good episodes among them."""
        if self.tools:
            learned = [self.episodes(fault, LEARN, min(LEARNED, bad))["uses"] for fault in faults]
            names = {name: None for uses in learned for name in uses}
            self.known = {name: [use for uses in learned for use in uses.get(name, ())] for name in names}
            self.learned = [f"{fault.kind}@{fault.at_step}" for fault in faults]
        nominal, rows = self.episodes(FaultConfig(), NONE, good), []
        shortest = min(map(len, nominal["rewards"]))
        if late := [fault for fault in faults if fault.at_step >= shortest]:
            raise ConfigError(
                f"faults=[{late[0].kind}@{late[0].at_step}]: below {shortest}, an episode's control steps"
            )
        laddered = self.episodes(FaultConfig(), OURS, good)
        level = GOOD * float(np.mean([_end(each) for each in nominal["rewards"]]))
        blank: dict = {"task": self.task, "seed": self.seed, "fault": NOMINAL, "at_step": 0, "monitor": ""}
        blank |= {"episodes": good} | dict.fromkeys(JUDGED)
        for monitor in (NONE, OURS):
            played = nominal if monitor == NONE else laddered
            success, _ = self.judged(played, level, 0)
            share = float(np.isfinite(self.firsts(OURS, nominal, 0)).mean()) if monitor == OURS else 0.0
            rows.append(blank | {"monitor": monitor, "false_alarms": share, "success": success.mean()})
            rows[-1] |= self.used(played)
        for fault in faults:
            plain, mended = (self.episodes(fault, name, bad) for name in (NONE, OURS))
            harmless, at = fault.kind in HARMLESS, fault.at_step // self.length
            oracle = plain if harmless else self.episodes(fault, ORACLE, bad)
            for monitor in (NONE, OURS) if harmless else MONITORS:
                first, early = self.firsts(monitor, plain, at), self.firsts(monitor, nominal, at)
                found = np.isfinite(first) & (first >= at)
                acted = {NONE: plain, ELAPSED: plain, OURS: mended}.get(monitor, oracle)
                outcome = self.judged(acted, level, fault.at_step)
                if monitor in (CONSTANT, RANDOM):  # not played: as by the oracle where they alarm
                    pairs = zip(outcome, self.judged(plain, level, fault.at_step), strict=True)
                    outcome = [np.where(found, *pair) for pair in pairs]
                delay = float((first - at)[found].mean()) if found.any() else None
                rows.append(
                    blank
                    | {"fault": fault.kind, "at_step": fault.at_step, "monitor": monitor, "episodes": bad}
                    | {"auroc": self.auroc(monitor, plain, nominal), "detected": found.mean()}
                    | {"false_alarms": float(np.isfinite(early).mean()) if monitor != ORACLE else 0.0}
                    | {"delay_decisions": delay, "success": outcome[0].mean(), "wasted": outcome[1].mean()}
                    | self.used(acted if monitor in (ORACLE, OURS) else plain)
                )
                if harmless:  # so that each alarm is a false one
                    rows[-1] |= {"auroc": None, "detected": None, "false_alarms": found.mean(), "wasted": None}
        for row in rows:
            plays = row["episodes"] if row["fault"] in HARMLESS else good
            counts = {"detected": row["episodes"], "false_alarms": plays, "success": row["episodes"]}
            row |= {f"{name}_95": interval(row[name], count) for name, count in counts.items()}
        return [{name: round(float(x), 3) if isinstance(x, float) else x for name, x in row.items()} for row in rows]

    def episodes(self, fault: FaultConfig, monitor: str, count: int) -> dict:
        """Return the rewards of each step, the gauges of each decision and the ladder's steps of `count` episodes.

        They are played unless they were before. The `monitor` starts the ladder.
        """
        about = {"checkpoint": self.alarms.checkpoint, "episodes": count, "monitor": monitor, "fault": vars(fault)}
        about |= {"tools": [*self.tools], "learned": list(self.learned)} if self.tools and monitor != NONE else {}
        path = self.folder / f"{fault.kind or NOMINAL}-{fault.at_step}-{monitor}.json"
        if path.exists() and (kept := json.loads(path.read_bytes()))["about"] == about:
            return kept
        climbs = monitor != NONE
        tools = self.tools if climbs else ()
        config = replace(self.evaluation.config, fault=fault, episodes=count, ladder=climbs, tools=tools)
        evaluation = replace(self.evaluation, config=config)
        seed = LEARN_SEED if monitor == LEARN else SEEDS[bool(fault.kind)]
        at = fault.at_step // self.length
        watch = evaluation.watch(self.alarms, (lambda episode: at) if monitor == ORACLE else None, Uses(self.known))
        episodes = evaluation.episodes()
        try:
            played = episodes.play(evaluation.agent(True), seed, watch=watch)
        finally:
            episodes.close()
        gauges = [np.round(np.array(each), 4).tolist() for each in watch.rows]
        rewards = [np.round(np.array(each), 4).tolist() for each in watch.rewards]
        kept = {"about": about, "rewards": rewards, "gauges": gauges}
        kept |= {"steps": watch.record() if isinstance(watch, Ladder) else [], "returns": played.returns.tolist()}
        if isinstance(watch, Ladder) and self.tools:
            kept |= {"tools": [tool.name for tool in watch.tools], "uses": watch.uses.all}
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(kept).encode())
        say(f"{path.parent.name}, {path.stem}: return {played.returns.mean():.0f}")
        return kept

    def used(self, played: dict) -> dict[str, str]:
        """Return in which share of the episodes each tool was used, nothing without tools."""
        found, count = [], len(played["rewards"])
        for name in played.get("tools", ()):
            uses = [step["rung"] == TOOL and step["why"].startswith(f"{name}: ") for step in played["steps"]]
            share = len({step["episode"] for step, use in zip(played["steps"], uses, strict=True) if use}) / count
            found.append(f"{name} {share:.3f} ({interval(share, count)})")
        return {"used": "; ".join(found)} if self.tools else {}

    def firsts(self, monitor: str, played: dict, at: int) -> Float[np.ndarray, " N"]:
        """Return the decision of each episode at which a monitor first alarms, or infinity."""
        count = len(played["gauges"])
        if monitor in (NONE, ELAPSED):  # episodes last equally long, so none lasts longer than good ones
            return np.full(count, np.inf)
        if monitor == ORACLE:
            return np.full(count, float(at))
        if monitor == RANDOM:
            drawn = np.random.default_rng(0)
            when = drawn.integers(0, len(played["gauges"][0]), count).astype(float)
            return np.where(drawn.random(count) < self.alarms.rate, when, np.inf)
        over = [self.near(monitor, each) > 1 for each in played["gauges"]]
        return np.array([float(each.argmax()) if each.any() else np.inf for each in over])

    def near(self, monitor: str, gauges: list) -> Float[np.ndarray, " T"]:
        """Return how near to an alarm each decision of an episode is, by its nearest gauge: above 1 beyond it."""
        values, found = np.array(gauges, dtype=float).reshape(-1, len(GAUGES)), []
        for name, column in zip(GAUGES, values.T, strict=True):
            band = self.alarms.bands[name]
            if monitor == CONSTANT:  # the least threshold that no part of the band is above
                most = max(m + band.threshold * w for m, w in zip(band.mean, band.width, strict=True))
                found.append(1 + (column - most) / (band.threshold * max(band.width)))
            else:
                found.append(band.excess(column) / band.threshold)
        return np.nan_to_num(np.max(found, 0), nan=-math.inf)

    def auroc(self, monitor: str, bad: dict, good: dict) -> float | None:
        """Return how well a monitor's largest value in an episode tells bad episodes from good ones."""
        if monitor not in (CONSTANT, OURS):
            return {ELAPSED: 0.5, RANDOM: 0.5, ORACLE: 1.0}.get(monitor)
        scores = [float(self.near(monitor, each).max()) for played in (bad, good) for each in played["gauges"]]
        return auc(np.array(scores), np.arange(len(scores)) < len(bad["gauges"]))

    def judged(self, played: dict, level: float, at_step: int) -> list[Float[np.ndarray, " N"]]:
        """Return which episodes end as good ones do, and each one's share from the fault on that was wasted."""
        stops, rests = dict[int, int](), Counter[int]()
        for step in played["steps"]:
            rests[step["episode"]] += BUDGETS[BACK_OFF] * (step["rung"] == BACK_OFF)  # without a decision
            if step["rung"] == STOP:
                stops[step["episode"]] = step["decision"] * self.length + rests[step["episode"]]
        success = np.array([float(_end(each) >= level) for each in played["rewards"]])
        wasted = []
        for number, rewards in enumerate(played["rewards"]):
            window = min(10, len(rewards))
            smooth = np.convolve(rewards, np.ones(window) / window, "valid")
            poor = np.flatnonzero(smooth < level)
            last = min(stops.get(number, len(rewards)), poor[-1] + window if len(poor) else 0)
            wasted.append(max(0, last - at_step) / len(rewards))
        return [success, np.array(wasted)]


def interval(share: float | None, count: int) -> str | None:
    """Return the 95 % interval of Clopper and Pearson 1934 around a share of `count` episodes, None without one."""
    if share is None:
        return None
    low, high = binomtest(round(share * count), count).proportion_ci(0.95, "exact")
    return f"{low:.3f} to {high:.3f}"


def _end(rewards: Sequence[float]) -> float:
    """Return the mean reward at an episode's end."""
    return float(np.mean(rewards[-max(1, round(LAST * len(rewards))) :]))
