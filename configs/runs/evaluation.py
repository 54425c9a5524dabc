"""An evaluation of a checkpoint: episodes, timing, arithmetic, plot and video."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from configs.reporting import progress_bar, say
from configs.runs.episodes import EvaluationEpisodes, measure, side_by_side
from configs.runs.loading import Loaded, Machine, load_agent, prepare, renamed, said, trained_with
from configs.runs.parts import senses_of
from configs.runs.report import Report, interval, rounded
from configs.runs.run_folder import write_summary
from configs.schema import EvaluateConfig
from envs.senses import LANGUAGE_NAME, Senses
from envs.vector import watched
from policies.agent import Agent
from policies.alarms import FILE, Alarms, Watch, check_count
from policies.cases import Uses
from policies.decisions.trace import TRACE, traced
from policies.guidance.chosen import Chosen
from policies.ladder import UNDO, Ladder
from policies.nearest_frames import NearestFrames
from policies.settings import QUANTITIES
from policies.storage.checkpoint import PROGRESS, REPLAY, read_replay
from policies.storage.folders import FolderError, versions
from policies.tools import Tool
from policies.training.rollouts import Rollout, evaluated, in_words, outcome
from worldmodel.flops import plan_gflop
from worldmodel.settings import PlannerConfig
from worldmodel.strict import ConfigError, build


def evaluate(config: EvaluateConfig, folder: Path) -> dict:
    """Evaluate the checkpoint that `config` names, as `Evaluation` does."""
    return Evaluation.begin(config).run(folder)


@dataclass(frozen=True)
class Evaluation:
    """A loaded checkpoint and how to evaluate it; `planner`: its settings with the config's; `chosen`: guidances."""

    config: EvaluateConfig
    machine: Machine
    loaded: Loaded
    planner: PlannerConfig
    chosen: Chosen | None = None

    @classmethod
    def begin(cls, config: EvaluateConfig) -> "Evaluation":
        """Load the checkpoint that `config` names. Raises ConfigError, FolderError."""
        if not config.checkpoint:
            raise ConfigError("checkpoint=: a run folder or a checkpoint, e.g. checkpoint=runs/walker-walk/<run>")
        loaded = load_agent(config.checkpoint, config.seed, config.device, config.threads)
        loaded = replace(loaded, task=renamed(loaded.task, config.on_task))
        changed = {name: value for name, value in config.planner.items() if value is not None}
        planner = build(PlannerConfig, asdict(loaded.spec.planner) | changed, "planner.")
        _check_senses(config, Senses.of(loaded.spec.senses).names)
        if config.video_episodes and planner.deadline_ms:
            raise ConfigError("video_episodes=: not with planner.deadline_ms=, as such episodes differ when repeated")
        if config.calibrate:
            check_count(config.calibrate, config.calibrate, config.false_alarms)
        clocked = config.timing or bool(planner.deadline_ms)  # else nothing depends on speed
        machine = prepare(config if clocked else replace(config, compile="false"))
        chosen = Chosen.load(config.guidance, loaded.path, loaded.agent.model) if config.guidance.given else None
        return cls(config, machine, loaded, planner, chosen)

    @property
    def senses(self) -> Senses:
        """The senses that the checkpoint's model perceives."""
        return Senses.of(self.loaded.spec.senses)

    @property
    def report(self) -> Report:
        """What is reported of named quantities."""
        return Report(self.chosen.wishes if self.chosen else self.loaded.task.guidance, self.config.quantities)

    def run(self, folder: Path) -> dict:
        """Evaluate, leave all in `folder`, and return the summary. Raises FolderError if it is a run's own folder."""
        if (folder / "config.yaml").exists():
            raise FolderError(f"hydra.run.dir={folder}: a run's own folder, whose summary.json would be lost")
        if self.config.data:
            return self._on_recordings(folder)
        with watched(say, f"what was finished is in {folder}"):
            return self._run(folder)

    def _on_recordings(self, folder: Path) -> dict:
        """Tell how near the policy comes to recordings (`data=`), and what the value foretells there. Nothing moves."""
        from configs.runs.held_out import HeldOut
        from configs.runs.recordings import as_recordings, unseen

        config, model, task = self.config, self.loaded.agent.model, self.loaded.task
        own = as_recordings(task, model.senses, config.data, config.cache_gb)
        own = unseen(own, config.data, trained_with(self.loaded.path), config.checkpoint)
        held = HeldOut.of(own, model, task.arm.control_hz)
        result = {"task": task.label, "data": list(config.data), **own.summary(), **held.figures(model)}
        result |= {"episodes_held_out": len(own.shown), "checkpoint": str(self.loaded.path)}
        folder.mkdir(parents=True, exist_ok=True)
        write_summary(folder, result)
        held.draw(folder / "held_out.png", model, ())
        say(f"held-out action error {result['held_out_action_error']:.4f}: {folder}")
        return result

    def _run(self, folder: Path) -> dict:
        agreement = self._agreement()  # first, so that a damaged replay fails before the episodes are played
        config, spec = self.config, self.loaded.spec
        alarms = None if config.calibrate else self._kept_alarms()
        watch = self.watch(alarms) if config.calibrate or alarms else None
        planned, alone, agent, states = self._episodes(folder, watch)
        if config.calibrate and watch:
            about = self.loaded.path, self.loaded.task.label, self._followed
            alarms = Alarms.of(watch, planned.successes, config.false_alarms, *about)
            say(f"alarms of {alarms.episodes} good episodes: {alarms.keep(self.loaded.path)}")
        result = {
            "task": self.loaded.task.label,
            "seed": config.seed,
            "drop_senses": list(config.drop_senses),
            "drop_at_step": config.drop_at_step,
            "instruction": config.instruction,
            "env_steps": spec.env_steps,
            **outcome(planned, alone),
            "return_interval": interval(planned),
            "policy_return_std": round(float(alone.returns.std()), 3),
            "policy_return_interval": interval(alone),
            "policy_returns": rounded(alone.returns),
            "task_of_each": list(planned.tasks) or None,
            "guidance_weight": self.chosen and self.chosen.weight,
            **self.report.fulfilled(planned, alone),
            "quantities": self.report.values(planned, spec.quantities),
            "fault": asdict(config.fault) if config.fault.kind else None,
            "alarms": alarms and watch and alarms.raised(watch),
            "ladder": watch.record() if isinstance(watch, Ladder) else None,
            **self._costs(agent),
            "device": str(self.machine.device),
            "versions": versions(),
            "agreement": agreement,
            "planner": asdict(self.planner),
            "checkpoint": str(self.loaded.path),
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_summary(folder, result)
        self._draw(folder, planned, alone)
        self._film(folder, planned.returns, states, alarms)
        if isinstance(watch, Ladder) and watch.tools:
            watch.uses.keep(self.loaded.path)
        timed = f", {result['plan_ms_p50']:.1f} ms a plan" if self.config.timing else ""
        say(f"{in_words(planned, alone)}{timed}: {folder}")
        return result

    def _costs(self, agent: Agent) -> dict:
        """Return time and arithmetic of the training and of a decision; `agent`: the one that planned the episodes."""
        spec, path, model = self.loaded.spec, self.loaded.path, self.loaded.agent.model
        timed: dict[str, float | None] = dict.fromkeys(("decisions_per_second", "plan_ms_p50", "plan_ms_p99"))
        if self.config.timing:
            pace = measure(self.loaded.task, self.senses, self.agent(True, self.machine.compiled))
            found = 1000 / pace.mean(), *np.percentile(pace, (50, 99))
            timed = {name: round(float(each), 3) for name, each in zip(timed, found, strict=True)}
        imagined = agent.totals.model_calls_per_decision
        plan = plan_gflop(model, spec.model.token.discount(spec.discount), self.planner, imagined)
        update = said(path.parent.parent / "summary.json").get("update_gflop")
        trained = round(said(path / PROGRESS).get("seconds", 0.0), 1) or None
        return {
            "train_seconds": trained,
            "env_steps_per_second": trained and round(spec.env_steps / trained, 2),
            "gflop_per_control_step": None if update is None else round(update + plan / agent.steps_per_decision, 3),
            "plan_gflop": round(plan, 6),
            "imagined_per_plan": round(imagined, 1),
            **timed,
            "parameters": sum(p.numel() for p in model.parameters()),
        }

    def watch(
        self, alarms: Alarms | None, first: Callable[[int], float] | None = None, uses: Uses | None = None
    ) -> Watch:
        """Make a watch or, with `ladder`, a ladder that climbs by the alarms; `first`: as of `Ladder`.

        `uses`: of tools, by default those kept with the checkpoint.
        """
        if not self.config.ladder or alarms is None:
            return Watch()
        undo, tools = UNDO[self.loaded.task.control or ""], Tool.each(self.config.tools)
        uses = uses or (Uses.kept(self.loaded.path) if tools else None)
        return Ladder(alarms, undo, first=first, tools=tools, uses=uses)

    def _kept_alarms(self) -> Alarms | None:
        """Return the checkpoint's alarms; None without any, or, with a line, if they are of another guidance."""
        alarms = Alarms.kept(self.loaded.path)
        if alarms is None and self.config.ladder:
            raise ConfigError(f"ladder=true: no {FILE} in {self.loaded.path}; calibrate=<episodes> makes it")
        if alarms is None or alarms.guidance == self._followed:
            return alarms
        say(f"{FILE}: made {f'under {alarms.guidance}' if alarms.guidance else 'without guidance'}: not used here")
        return None

    @property
    def _followed(self) -> str:
        """The sentence of the guidances, "" without any."""
        return self.report.sentence if self.chosen else ""

    def _draw(self, folder: Path, planned: Rollout, alone: Rollout) -> None:
        """Write the plot of the returns."""
        from envs.benchmark.figures import paired_strips, save

        task, samples = self.loaded.task, {"with the planner": planned.returns, "policy alone": alone.returns}
        title = f"{task.label}, {self.loaded.spec.env_steps:,} steps"
        save(folder / "returns.png", paired_strips(samples, title))

    def _film(self, folder: Path, returns: np.ndarray, states: list[torch.Tensor], alarms: Alarms | None) -> None:
        """Write the video or, of the episodes asked for, one each, if wanted; `states`: `EvaluationEpisodes.states`."""
        if not self.config.video:
            return
        from configs.runs.film import film

        task, memories, seed = self.loaded.task, self.memories if self.senses.cameras else None, self.config.seed
        if not self.config.video_episodes:
            agent = self.agent(True)
            watch = self.watch(alarms) if self.config.ladder else None
            with closing(self.episodes(render=True, together=1)) as episodes:
                running = evaluated(episodes.env, agent, seed, stream=2)
                film(folder / "rollout.mp4", running, task, agent, memories, report=self.report, watch=watch)
            return
        order = np.argsort(returns, kind="stable").tolist()
        number_of = {"best": order[-1], "median": order[(len(order) - 1) // 2], "worst": order[0]}
        with closing(self.episodes(render=True)) as episodes:
            for number in dict.fromkeys(number_of[each] for each in self.config.video_episodes):
                which = "-".join(each for each in self.config.video_episodes if number_of[each] == number)
                place = folder / f"{which}-episode{number}-return{returns[number]:.0f}"
                place.mkdir()
                batch, of = divmod(number, episodes.env.num_envs)
                agent = self.agent(True)
                agent.generator.set_state(states[batch])
                running = evaluated(episodes.batch(number - of), agent, seed, number - of)
                more = {"of": of, "report": self.report, "watch": self.watch(alarms) if self.config.ladder else None}
                film(place / "rollout.mp4", running, task, agent, memories, **more)

    def agent(self, planned: bool, compiled: bool = False) -> Agent:
        """Make an agent that acts as in the evaluation."""
        spec, generator = self.loaded.spec, torch.Generator().manual_seed(self.config.seed)
        settings = self.planner, spec.discount, spec.sentences
        agent = Agent.acting(self.loaded.agent.model, *settings, generator, planned, compiled)
        return self.chosen.guide(agent) if self.chosen else agent

    def episodes(self, render: bool = False, together: int = 0) -> EvaluationEpisodes:
        """Make the evaluation's episodes; `together`: how many at once, by default as many as in the evaluation."""
        alone = self.config.ladder and self.config.fault.mended_by  # a tool of another process acts on one body
        together = together or (1 if alone else side_by_side(self.planner.deadline_ms))
        settings = {"variation": self.config.randomise, "senses": self.senses, "drop": self._drop, "render": render}
        settings["fault"] = self.config.fault
        count = self.config.calibrate or self.config.episodes
        episodes = EvaluationEpisodes(self.loaded.task, count, together, **settings)
        for env in episodes.env.envs if self.config.instruction else ():
            for part in getattr(env, "parts", {"": env}).values():
                part.set_wrapper_attr("instruction", self.config.instruction)
        return episodes

    def _episodes(self, folder: Path, watch: Watch | None) -> tuple[Rollout, Rollout, Agent, list[torch.Tensor]]:
        """Play the episodes with the planner and without; return both, the agent that planned, its `states`."""
        config, episodes = self.config, self.episodes()
        agent, policy = self.agent(True, bool(self.planner.deadline_ms) and self.machine.compiled), self.agent(False)
        with closing(episodes), ExitStack() as stack:
            self._check_spaces(episodes.env)
            self.report.check(episodes.env.metadata[QUANTITIES])
            for key, step in (("drop_at_step", config.drop_at_step), ("fault.at_step", config.fault.at_step)):
                if step >= episodes.limit:
                    raise ConfigError(f"{key}={step}: below {episodes.limit}, an episode's control steps")
            about = {"task": self.loaded.task.label, "checkpoint": str(self.loaded.path), "seed": config.seed}
            stack.enter_context(traced(agent, folder / TRACE if config.trace else None, about))
            with progress_bar(episodes.steps, desc="with the planner") as bar:
                planned = episodes.play(agent, config.seed, tick=bar.update, named=self.report.names, watch=watch)
            states = episodes.states
            with progress_bar(episodes.steps, desc="policy alone") as bar:
                alone = episodes.play(policy, config.seed, tick=bar.update, named=self.report.names)
        return planned, alone, agent, states

    @cached_property
    def memories(self) -> NearestFrames | None:
        """Moments sampled from the checkpoint's replay; None, with a message, if it has none. Raises FolderError."""
        path, spec = self.loaded.path, self.loaded.spec
        if not (path / REPLAY).exists():
            say(f"{path / REPLAY}: not there, so neither the senses' agreement nor what is expected is known")
            return None
        replay = read_replay(path, spec.senses, spec.model.vision.frame_lags)
        return NearestFrames.of(replay, self.loaded.agent.model)

    def _agreement(self) -> dict[str, float] | None:
        """For each sense, how well the latent from it alone agrees with that from all; None if it is unknown."""
        if len(self.senses.names) < 2 or self.memories is None:
            return None
        return {sense: round(value, 3) for sense, value in self.memories.agreement().items()}

    @property
    def _drop(self) -> dict[str, int]:
        """The control step from which each of the senses in `drop_senses` is missing."""
        return dict.fromkeys(self.config.drop_senses, self.config.drop_at_step)

    def _check_spaces(self, env) -> None:
        """Raise FolderError if the observations or actions of `env` differ in shape from the checkpoint's."""
        spec = self.loaded.spec
        shown = senses_of(env.single_observation_space) | {"action": env.single_action_space.shape}
        made = spec.senses | {"action": (spec.action_size,)}
        for key in made.keys() | shown.keys():
            if made.get(key) != shown.get(key):
                sizes = ["x".join(map(str, shapes.get(key, (0,)))) for shapes in (made, shown)]
                raise FolderError(f"{self.loaded.path}: its {key} has {sizes[0]} numbers, the task's has {sizes[1]}")


def _check_senses(config: EvaluateConfig, known: Sequence[str]) -> None:
    """Raise ConfigError unless the senses dropped are some of those `known`, language apart, and words are heard."""
    given, dropped = f"drop_senses=[{','.join(config.drop_senses)}]", set(config.drop_senses)
    if unknown := [name for name in config.drop_senses if name not in known]:
        raise ConfigError(f"{given}: {unknown[0]}: not among what it perceives, {', '.join(known)}")
    if len(dropped) < len(config.drop_senses):
        raise ConfigError(f"{given}: each sense once")
    if dropped and {name for name in known if name != LANGUAGE_NAME} <= dropped:
        but = ", words do not count" if LANGUAGE_NAME in known else ""
        raise ConfigError(f"{given}: some of what it perceives, {', '.join(known)}; not all{but}")
    if config.instruction and LANGUAGE_NAME not in known:
        raise ConfigError("instruction=: only for a checkpoint with senses=[...,language]")
