"""The running episodes of a vector of environments, and the experts that drive in some: what every loop steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policies.agent import Agent
from policies.settings import EXPERT, FAULT, QUANTITIES, SUCCESS, LoopConfig
from policies.text_encoder import WORDS
from worldmodel.observation import Observation
from worldmodel.replay import Replay
from worldmodel.senses import LANGUAGE_KEY, Shapes, is_image
from worldmodel.senses import name as sense_name


def observe(returned: Mapping[str, np.ndarray | tuple[str, ...]], senses: Shapes) -> Observation:
    """Copy what a vector of B environments returned by key: arrays (B, ...), sentences. Raises ValueError."""
    present = {
        key: torch.from_numpy(np.array(returned[mask], dtype=bool))
        for key in senses
        if (mask := f"mask.{sense_name(key)}") in returned
    }
    values = {}
    for key in senses.keys() & returned.keys():
        value = returned[key]
        if key == LANGUAGE_KEY:
            values[key] = WORDS.encode(list(value), present[key].flatten().numpy() if key in present else None)
        else:
            values[key] = torch.from_numpy(np.array(value, dtype=np.uint8 if is_image(key) else np.float32))
    return Observation.of(senses, values, present)


def episode_seed(seed: int, stream: int, env: int, episode: int) -> int:
    """Return the reset seed of an episode; `stream`: 0 training, 1 evaluation, 2 timing and filming; independent."""
    return int(np.random.SeedSequence([seed, stream, env, episode]).generate_state(1)[0])


@dataclass(frozen=True)
class Step:
    """A control step of E environments: what it led to and brought, (E,) each; where `faulty`, there was none."""

    observation: Observation
    reward: Float[Tensor, " E"]
    terminated: Bool[Tensor, " E"]
    truncated: Bool[Tensor, " E"]
    faulty: Bool[Tensor, " E"]

    @property
    def ended(self) -> Bool[Tensor, " E"]:
        """Where the episode ended: the environment begins another before the next step."""
        return self.terminated | self.truncated


class Experts:
    """The next actions of the experts of E environments, and which experts are driving.

    An environment reports what its expert would do next as `expert_action` (A,) in its `info`, if a reset asked for it
    by the options `{"expert_action": True}`. The first `demonstrations` episodes are the expert's. In later ones it
    takes over with probability `expert_takeover_prob` at each step, and then keeps control until the episode ends
    (HG-DAgger: Kelly et al. 2019, arXiv 1810.02890). An expert whose action is NaN does not drive.
    """

    def __init__(self, count: int, size: int, config: LoopConfig):
        """Create the experts of `count` environments with actions of `size` numbers."""
        self._first, self._takeover = config.demonstrations, config.expert_takeover_prob
        self.action = torch.full((count, size), torch.nan)
        self.taken = np.zeros(count, dtype=bool)  # which experts have taken over
        self.steps = np.zeros(count, dtype=int)  # steps of the running episode that each has driven

    def demonstrating(self, episode: np.ndarray) -> np.ndarray:
        """Return which environments (E,) are in an all-expert episode; `episode` (E,): episode numbers, from 1."""
        count = len(episode)
        return (episode - 1) * count + np.arange(count) < self._first

    def driving(self, episode: np.ndarray) -> np.ndarray:
        """Return which experts (E,) drive now, given the episode numbers (E,)."""
        return (self.demonstrating(episode) | self.taken) & self._known

    @property
    def _known(self) -> np.ndarray:
        return self.action.isfinite().all(1).numpy()

    def take_over(self, generator: torch.Generator) -> None:
        """Let each expert take over with its probability, before a step; draw nothing if that is 0."""
        if self._takeover:
            drawn = torch.rand(len(self.taken), generator=generator).numpy() < self._takeover
            self.taken |= drawn & self._known

    def reset(self, episode: np.ndarray, begun: np.ndarray) -> dict[str, bool]:
        """Forget the actions in the environments (E,) that begin an episode of these numbers; return reset options."""
        self.action[torch.from_numpy(begun)] = torch.nan
        return {EXPERT: True} if self._takeover or (self.demonstrating(episode) & begun).any() else {}

    def begin(self, begun: np.ndarray) -> None:
        """Take control from the experts of the environments (E,) that begin an episode."""
        self.taken[begun], self.steps[begun] = False, 0

    def note(self, info: dict) -> None:
        """Store the experts' next actions from the `info` of E environments, where it reports them."""
        if EXPERT in info:
            here = torch.from_numpy(info[f"_{EXPERT}"])
            self.action[here] = torch.from_numpy(np.asarray(info[EXPERT], dtype=np.float32))[here]

    def instead(self, action: Tensor, episode: np.ndarray) -> tuple[Tensor, Tensor]:
        """Substitute the experts' actions where they drive; return the actions (E, A) and where that was done (E,)."""
        driving = self.driving(episode)
        self.steps += driving
        demonstrated = torch.from_numpy(driving)
        return torch.where(demonstrated[:, None], self.action, action), demonstrated

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the environments will not report again."""
        return {name: torch.from_numpy(getattr(self, name).copy()) for name in ("taken", "steps")}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.taken, self.steps = saved["taken"].numpy().copy(), saved["steps"].numpy().copy()


class Episodes:
    """The running episode of each of E environments: its number, from 1, and its length, return and success so far.

    `env`: a vector of environments that reset only when told to (`envs.make.make_vector`). `observation`: the newest
    one of all of them, None before `begin`. `judged`: whether they report success (`is_success` in their info).
    `tasks`: the task of each, if they have several; else empty. `units`: of the named quantities that they report; the
    newest values are `quantities` (E, Q), NaN if unknown. `held` (E,): for how many steps up to now they succeed.
    `failed` (E,): how many episodes in a row were at fault at their reset or first step; `report` is called with each
    fault that an environment reports (FAULT in its info).
    """

    report: Callable[[Exception], None] = staticmethod(lambda fault: None)

    def __init__(self, env, senses: Shapes, seed: Callable[[int, int], int], experts: Experts | None = None):
        """Track the episodes of `env`; `seed`: gives an episode's reset seed by its environment and number."""
        self.env, self.senses, self.seed, self.experts = env, senses, seed, experts
        count = env.num_envs
        self.number = np.zeros(count, dtype=int)
        self.returns, self.lengths = np.zeros(count), np.zeros(count, dtype=int)
        self.successes, self.judged = np.zeros(count, dtype=bool), False
        self.held = np.zeros(count, dtype=int)
        self.observation: Observation | None = None
        self.tasks: tuple[str, ...] = ()
        self.failed, self._fault = np.zeros(count, dtype=int), Exception()
        self._info: dict = {}  # what the environments last reported
        self.units: dict[str, str] = env.metadata.get(QUANTITIES, {})
        self.quantities = torch.full((count, len(self.units)), torch.nan)

    @property
    def everywhere(self) -> Bool[Tensor, " E"]:
        """True for each environment."""
        return torch.ones(self.env.num_envs, dtype=torch.bool)

    @property
    def now(self) -> Observation:
        """The newest observation, after `begin`."""
        assert self.observation is not None
        return self.observation

    def begin(self, begun: Bool[Tensor, " E"]) -> None:
        """Begin an episode where marked, and another where the reset is at fault: raised after PATIENCE of those."""
        mask = begun.numpy()
        while mask.any():
            if self.failed.max() >= PATIENCE:
                self.observation, self.lengths[:] = None, 0
                raise self._fault
            self.number[mask] += 1
            self.observation = self._reset(mask)
            self.returns[mask], self.lengths[mask], self.successes[mask], self.held[mask] = 0, 0, False, 0
            if self.experts is not None:
                self.experts.begin(mask)
            mask = self._faults()
            self.failed += mask

    def step(self, action: Float[Tensor, "E A"]) -> Step:
        """Step all environments."""
        returned, reward, terminated, truncated, info = self.env.step(action.numpy())
        self.observation = self._observed(returned, info)
        self.returns += reward
        self.lengths += 1
        faulty = self._faults()
        self.failed = np.where(faulty, self.failed + (self.lengths == 1), 0)
        self.judged = SUCCESS in info
        if self.judged:
            done = info[SUCCESS].astype(bool)
            self.successes |= done
            self.held = np.where(done, self.held + 1, 0)
        ends = torch.from_numpy(np.array(terminated)), torch.from_numpy(np.array(truncated))
        rewards = torch.from_numpy(np.array(reward, dtype=np.float32))
        return Step(self.observation, rewards, *ends, torch.from_numpy(faulty))

    def _faults(self) -> np.ndarray:
        """Return which environments (E,) have just been at fault, and report each."""
        for fault in self._info.get(FAULT, ()):
            if fault is not None:
                self._fault = fault
                self.report(fault)
        return self._info.get(f"_{FAULT}", np.zeros(len(self.failed), dtype=bool))

    def _reset(self, mask: np.ndarray) -> Observation:
        """Reset the environments (E,) marked to the start of their episodes; return the observation of all."""
        seeds = [self.seed(env, int(number)) for env, number in enumerate(self.number)]
        options: dict[str, object] = {"reset_mask": mask.copy()}
        if self.experts is not None:
            options |= self.experts.reset(self.number, mask)
        returned, info = self.env.reset(seed=seeds, options=options)
        self.tasks = tuple(info.get("task", ()))
        return self._observed(returned, info)

    def _observed(self, returned: Mapping, info: dict) -> Observation:
        self._info = info
        if self.experts is not None:
            self.experts.note(info)
        if QUANTITIES in info:
            known = info[f"_{QUANTITIES}"]
            self.quantities = self.quantities.clone()  # the last ones may be kept
            self.quantities[torch.from_numpy(known)] = torch.from_numpy(np.asarray(info[QUANTITIES], np.float32)[known])
        return observe(returned, self.senses)

    def state_dict(self) -> dict:
        """Return the progress of the running episodes."""
        progress = {name: torch.from_numpy(getattr(self, name).copy()) for name in PROGRESS}
        observation = {} if self.observation is None else vars(self.observation)
        return progress | observation | ({} if self.experts is None else {"experts": self.experts.state_dict()})

    def load_state_dict(self, saved: Mapping) -> None:
        """Restore what `state_dict` returned; `retrace` then brings the environments to that state."""
        for name in PROGRESS:
            setattr(self, name, saved[name].numpy().copy())
        if self.experts is not None:
            self.experts.load_state_dict(saved["experts"])
        if "values" in saved:
            self.observation = Observation(dict(saved["values"]), dict(saved["present"])).map(torch.clone)

    def retrace(self, replay: Replay) -> str:
        """Step all environments through their running episodes again, to end together; return "" or why it failed."""
        if self.observation is None:  # no episode has begun
            return ""
        most, held = int(self.lengths.max()), replay.rows - 1
        if most > held:
            return f"the running episode is {most} steps long, of which the replay holds {held}"
        astray = "the environment did not come back to where it was: it is not deterministic"
        envs, observation = np.arange(len(self.lengths)), self._reset(self.everywhere.numpy())
        for t in range(most):
            starting = self.lengths == most - t
            if t and starting.any():
                observation = self._reset(starting)
            done = t - (most - self.lengths)  # steps into the episode; negative while still waiting to start
            rows = (replay.head.numpy() - self.lengths + done) % replay.rows
            action = replay.action[envs, rows] * torch.from_numpy(done >= 0).unsqueeze(1)
            returned, _, terminated, truncated, info = self.env.step(action.numpy())
            observation, ended = self._observed(returned, info), terminated | truncated
            if (ended & (done >= 0)).any():
                return astray
            if ended.any():
                observation = self._reset(ended)
        if most and (self.lengths == 0).any():
            observation = self._reset(self.lengths == 0)
        same = all(torch.equal(observation.values[key], value) for key, value in self.now.values.items())
        return "" if same else astray


PATIENCE = 3  # episodes in a row that may be at fault before they have a step
PROGRESS = ("number", "returns", "lengths", "successes")


def play(
    episodes: Episodes,
    agent: Agent,
    steps: int,
    after: Callable[[Step], bool | None] = lambda step: None,
    once: bool = False,
    act: Callable[[Observation, Tensor], Tensor] | None = None,
) -> None:
    """Let an agent act for at most `steps` control steps, until `after`, called after each, returns True.

    All environments begin an episode; one whose episode ended begins another, in which, with `once`, nobody acts: its
    action is 0. `act` is called instead of the agent's, to time or film it.
    """
    acting = episodes.everywhere
    episodes.begin(acting)
    agent.reset(acting)
    for _ in range(steps):
        action = (act or agent.act)(episodes.now, acting)
        step = episodes.step(torch.where(acting.unsqueeze(1), action, 0.0))
        if after(step):
            return
        if bool(step.ended.any()):
            if once:
                acting = acting & ~step.ended
                if not bool(acting.any()):
                    return
            episodes.begin(step.ended)
            agent.reset(step.ended & acting)
