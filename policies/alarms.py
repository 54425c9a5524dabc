"""Alarms of an acting agent: does the world answer as it imagined, and does the episode go as good ones did?

Two gauges are read at each decision. *surprise*: the logarithm of the mean squared error of the latent that was
imagined for the last token, averaged over about WINDOW decisions. *schedule*: the negative imagined reward of its
tokens, averaged over as many. An episode may fail in the one way or the other: a jammed joint surprises, a goal out of
reach does not (as Agia et al. 2024, arXiv 2410.04640, split them).

Each gauge has a band over the time of an episode, from good episodes alone (functional conformal prediction: Xu et al.
2025, arXiv 2503.08558): its mean and width over one half of them, and as threshold the order statistic of the largest
excess in each episode of the other half: a fresh good episode exceeds it with at most the probability asked for.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policies.agent import Agent
from policies.guidance.storage import sum_of_model
from policies.storage.folders import FolderError, replace_file
from worldmodel.errors import UserError
from worldmodel.observation import Observation
from worldmodel.strict import ConfigError, build

FILE = "alarms.json"
GAUGES = ("surprise", "schedule")
WINDOW = 4
SMOOTH = 5  # decisions over which a band's mean and width are averaged
NARROWEST = 0.1  # least width of a band, in standard deviations of all its values
TINY = 1e-9  # least squared error
FACTOR, SHARE = 4.0, 0.25
"""What is no alarm however alike good episodes are: an error of less than FACTOR times theirs, less imagined reward by
less than SHARE of what that changes by in them. Without it, bodies a tenth heavier alarmed, and did as well."""


@dataclass(frozen=True)
class Band:
    """`mean` and `width` at each decision (the last from there on): alarms above `mean + threshold * width`."""

    mean: tuple[float, ...]
    width: tuple[float, ...]
    threshold: float

    @classmethod
    def of(cls, episodes: Sequence[Float[np.ndarray, " _"]], rate: float) -> "Band":
        """Make the band of a gauge in N good episodes, for false alarms in a share `rate` of fresh ones.

        Values that are NaN count as unknown. Raises UserError if N is too small for the rate.
        """
        first, second = episodes[::2], episodes[1::2]
        rank = math.ceil((len(second) + 1) * (1 - rate))
        if rank > len(second):
            raise UserError(f"{len(episodes)} good episodes: at least {least_episodes(rate)} for a rate of {rate:g}")
        table = np.full((len(first), max(map(len, first))), np.nan)
        for row, episode in zip(table, first, strict=True):
            row[: len(episode)] = episode
        known = np.isfinite(table)
        counts, values = known.sum(0), np.where(known, table, 0)
        mean = values.sum(0) / np.maximum(counts, 1)
        spread = np.sqrt((np.where(known, table - mean, 0) ** 2).sum(0) / np.maximum(counts, 1))
        least = NARROWEST * float(np.std(table[known])) + TINY
        width = np.maximum(_smoothed(spread, counts), least)
        band = cls(tuple(_smoothed(mean, counts).tolist()), tuple(width.tolist()), 0.0)
        excess = sorted(float(np.nanmax(band.excess(episode), initial=0.0)) for episode in second)
        return cls(band.mean, band.width, max(excess[rank - 1], TINY))

    def at_least(self, margin: float) -> "Band":
        """Return the band where it is wide enough that nothing less than `margin` above the mean alarms."""
        return replace(self, width=tuple(max(width, margin / self.threshold) for width in self.width))

    def excess(self, values: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
        """Return by how many widths each value of an episode lies above the mean."""
        at = np.minimum(np.arange(len(values)), len(self.mean) - 1)
        return (values - np.array(self.mean)[at]) / np.array(self.width)[at]

    def over(self, value: float, clock: float) -> bool:
        """Return whether a value at a decision of an episode alarms."""
        at = min(int(clock), len(self.mean) - 1)
        return value > self.mean[at] + self.threshold * self.width[at]

    def near(self, values: Float[np.ndarray, " T"]) -> float:
        """Return the largest excess of an episode, in thresholds: above 1 the gauge alarms."""
        return float(np.nanmax(self.excess(values), initial=-math.inf)) / self.threshold

    def first(self, values: Float[np.ndarray, " T"]) -> float:
        """Return the decision of an episode at which the gauge first alarms, or infinity."""
        above = np.flatnonzero(self.excess(values) > self.threshold)
        return float(above[0]) if len(above) else math.inf


def least_episodes(rate: float) -> int:
    """Return how many good episodes a band for this rate of false alarms needs."""
    return 2 * math.ceil(1 / rate - 1 - 1e-9)


def _smoothed(values: Float[np.ndarray, " T"], counts: Int[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """Average each over SMOOTH decisions, weighted by the counts."""
    total, weight = (np.convolve(x, np.ones(SMOOTH), "full") for x in (values * counts, counts))
    middle = slice(SMOOTH // 2, SMOOTH // 2 + len(values))
    return total[middle] / np.maximum(weight[middle], 1)


@dataclass(frozen=True)
class Alarms:
    """The bands of an agent's gauges, and what they were made from.

    `checkpoint`: the SHA-256 of its weights. `task`: on which. `guidance`: the sentence that it follows, "" without.
    `rate`: the share of good episodes in which one or another of them alarms. `episodes`: how many good ones, of
    `played`.
    """

    bands: dict[str, Band]
    checkpoint: str
    task: str
    guidance: str
    rate: float
    episodes: int
    played: int

    @classmethod
    def of(
        cls,
        watch: "Watch",
        successes: Bool[np.ndarray, " N"] | None,
        rate: float,
        checkpoint: Path,
        task: str,
        guidance: str,
    ) -> "Alarms":
        """Make the alarms from the good of N episodes, or from all. Raises UserError if they are too few."""
        good = np.ones(len(watch.rows), bool) if successes is None else successes
        share, count = rate / len(GAUGES), int(good.sum())
        check_count(count, len(good), rate)
        bands = {
            name: Band.of([each for each, use in zip(watch.episodes(name), good, strict=True) if use], share)
            for name in GAUGES
        }
        margins = math.log(FACTOR), SHARE * float(np.ptp(bands[GAUGES[1]].mean))
        bands = {name: bands[name].at_least(margin) for name, margin in zip(GAUGES, margins, strict=True)}
        return cls(bands, sum_of_model(checkpoint), task, guidance, rate, count, len(good))

    def raised(self, watch: "Watch") -> dict:
        """Return, for each gauge and for any, the share of episodes with an alarm, its decision, how near it came."""
        found, names = {}, [*GAUGES]
        firsts = np.array([[self.bands[n].first(each) for each in watch.episodes(n)] for n in names])
        nears = np.array([[self.bands[n].near(each) for each in watch.episodes(n)] for n in names])
        for name, first, near in zip((*names, "any"), (*firsts, firsts.min(0)), (*nears, nears.max(0)), strict=True):
            found[name] = {
                "raised": round(float(np.isfinite(first).mean()), 4),
                "first": [int(each) if math.isfinite(each) else None for each in first],
                "near": [round(float(each), 3) for each in near],
            }
        return found

    def keep(self, checkpoint: Path, robot: str = "") -> Path:
        """Return the file, which appears at once. `robot`: on which they were made, "" for the task itself."""
        replace_file(path := checkpoint / file_of(robot), json.dumps(asdict(self), indent=1).encode())
        return path

    @classmethod
    def kept(cls, checkpoint: Path, robot: str = "") -> "Alarms | None":
        """Return a checkpoint's, None without any. Raises FolderError if the file is not of alarms, or of another's."""
        command = f"semagram-run robot={robot}" if robot else "semagram-eval"
        path, again = checkpoint / file_of(robot), f"{command} calibrate=<episodes> makes"
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_bytes())
            alarms = build(cls, found | {"bands": {}}, f"{path}: ")
            bands = {name: build(Band, found["bands"][name], f"{path}: bands.{name}.") for name in GAUGES}
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
            raise FolderError(f"{path}: not alarms: {error}; {again} them") from error
        if alarms.checkpoint != sum_of_model(checkpoint):
            raise FolderError(f"{path}: of another checkpoint; {again} this one's")
        return replace(alarms, bands=bands)

    @classmethod
    def needed(cls, checkpoint: Path, guidance: str, robot: str) -> "Alarms":
        """Return those made on a robot under this guidance. Raises UserError without such, FolderError as `kept`."""
        alarms, again = cls.kept(checkpoint, robot), "the same command with calibrate=100 instead makes it"
        if alarms is None:
            raise UserError(f"ladder=true: no {file_of(robot)} in {checkpoint}; {again}")
        if alarms.guidance != guidance:
            made = f"under {alarms.guidance}" if alarms.guidance else "without guidance"
            raise UserError(f"ladder=true: {file_of(robot)} was made {made}; {again}")
        return alarms


NEVER = Alarms({name: Band((0.0,), (1.0,), math.inf) for name in GAUGES}, "", "", "", 0.0, 0, 0)
"""Alarms that nothing raises."""


def file_of(robot: str) -> str:
    """Return the name of the file of alarms made on a robot, "" for the task's own environment."""
    return FILE.replace(".", f"-{robot}.") if robot else FILE


def check_count(good: int, played: int, rate: float) -> None:
    """Raise UserError if so many good episodes, of those played, are too few for alarms at this rate."""
    if good < (least := least_episodes(rate / len(GAUGES))):
        raise UserError(f"{good} good episodes of {played}: at least {least} for a rate of {rate:g}")


class Notice(NamedTuple):
    """What is reported to a robot of a decision besides the plan.

    `rung`: what it is to do instead, "" for nothing; `why`: what was done, or is asked, in a line; `gauges`: the
    newest, G = 0 as long as they are not all known; `choices`: the answers to what is asked.
    """

    rung: str = ""
    why: str = ""
    gauges: Float[np.ndarray, " G"] = np.zeros(0, np.float32)
    choices: tuple[str, ...] = ()


class Watch:
    """Reads the gauges of B environments in which an agent acts.

    `rows`: of each episode, in the order of `begin`, the gauges (G,) at each decision; `rewards`: of each step.
    """

    def __init__(self):
        self.rows: list[list[tuple[float, ...]]] = []
        self.rewards: list[list[float]] = []
        self._running: list[list[tuple[float, ...]]] = []
        self.bodies: Sequence[object] = ()
        self._imagined = self._state = torch.zeros(0)

    def begin(self, count: int, bodies: Sequence[object] = ()) -> None:
        """Begin the next episodes, in `count` environments; `bodies`: these, if they are simulated here."""
        self.bodies = bodies
        self._running = [[] for _ in range(count)]
        self.rows += self._running
        self.rewards += [[] for _ in range(count)]
        self._imagined = self._state = torch.zeros(0)

    def act(self, agent: Agent, observation: Observation, own: Bool[Tensor, " B"]) -> Float[Tensor, "B A"]:
        """Return what the agent does."""
        return agent.act(observation, own)

    @torch.no_grad()
    def look(self, agent: Agent, running: Bool[np.ndarray, " B"], reward: Float[Tensor, " B"] | None = None) -> None:
        """Read what was just decided in the `running` environments, after each control step, which brought `reward`."""
        if reward is not None:
            for rewards, here, value in zip(self.rewards[-len(running) :], running, reward.tolist(), strict=True):
                if here:
                    rewards.append(value)
        if agent.plan is not None and agent.planner is not None:
            due = torch.from_numpy(running) & agent.planned
            if bool(due.any()):
                self.read(agent, due)

    def read(self, agent: Agent, due: Bool[Tensor, " B"]) -> None:
        """Read what the agent, which plans, has just decided where it was `due`."""
        plan, decision = agent.plan, agent.decision
        assert plan is not None and decision is not None and agent.planner is not None
        if not len(self._state):
            self._imagined = torch.full_like(plan.latent, torch.nan)
            self._state = torch.full((len(due), len(GAUGES)), torch.nan)
        following, reward = (
            decision.imagined or agent.planner.imagine(plan.latent, decision.tokens[0].to(plan.latent.device))[:2]
        )
        error = (plan.latent - self._imagined).square().mean(-1).clamp(min=TINY)
        now = torch.stack([error, -reward], -1).cpu()
        state = torch.where(self._state.isfinite(), self._state.lerp(now, 1 / WINDOW), now)
        self._state = torch.where(due[:, None] & now.isfinite(), state, self._state)
        whole = agent.until == agent.curve.length  # else what was imagined is not what comes next
        imagined = torch.where(whole[:, None].to(following.device), following, torch.nan)
        self._imagined = torch.where(due[:, None].to(following.device), imagined, self._imagined)
        for number in due.nonzero()[:, 0].tolist():
            surprise, schedule = self._state[number].tolist()
            self._running[number].append((math.log(surprise), schedule))

    def ready(self, agent: Agent, begins: bool, rests: bool, reply: str = "") -> None:
        """Prepare for a decision in the one environment of a robot.

        `begins`: its episode does; `rests`: the robot does, so that what it sees now is not what was imagined; `reply`:
        the answer to what it was told to ask.
        """
        if begins or not self._running:
            self.begin(1)
        elif rests and len(self._imagined):
            self._imagined[0] = torch.nan

    def decided(self, agent: Agent) -> Notice:
        """Read what the agent decided there, and return what to report to the robot."""
        if agent.planner is not None:
            self.read(agent, torch.ones(1, dtype=torch.bool))
        newest = np.array(self._running[0][-1:], np.float32).reshape(-1)
        return Notice(gauges=newest) if np.isfinite(newest).all() else Notice()

    def newest(self, number: int) -> str:
        """Return what was done last in an environment's episode, in a line; "" for nothing."""
        return ""

    def episodes(self, gauge: str) -> list[Float[np.ndarray, " _"]]:
        """Return the values of one gauge, one array for each episode."""
        return [np.array([row[GAUGES.index(gauge)] for row in rows]) for rows in self.rows]
