"""The running episodes of a vector of environments: what training, evaluation, timing and filming step alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policies.agent import Agent
from policies.observations import observe
from policies.training.experts import Experts
from worldmodel.observation import Observation
from worldmodel.replay import Replay
from worldmodel.senses import Shapes


def episode_seed(seed: int, stream: int, env: int, episode: int) -> int:
    """Return the reset seed of one environment's episode.

    `stream`: 0 (training), 1 (evaluation) and 2 (timing, filming) are independent.
    """
    return int(np.random.SeedSequence([seed, stream, env, episode]).generate_state(1)[0])


@dataclass(frozen=True)
class Step:
    """One control step of E environments: the observation that it led to, and what it brought, each (E,)."""

    observation: Observation
    reward: Float[Tensor, " E"]
    terminated: Bool[Tensor, " E"]
    truncated: Bool[Tensor, " E"]

    @property
    def ended(self) -> Bool[Tensor, " E"]:
        """Where the episode ended: the environment begins another before the next step."""
        return self.terminated | self.truncated


class Episodes:
    """The running episode of each of E environments: its number, from 1, and its length, return and success so far.

    `env`: a vector of environments that reset only when told to (`envs.make.make_vector`). `observation`: the newest
    one of all of them, None before `begin`. `judged`: whether they report success (`is_success` in their info).
    `tasks`: the task of each, if they have several; else empty.
    """

    def __init__(self, env, senses: Shapes, seed: Callable[[int, int], int], experts: Experts | None = None):
        """Track the episodes of `env`, of which a model perceives `senses`.

        `seed`: gives the reset seed of an environment's episode, by its two numbers. `experts`: where each
        environment's own expert reports its next action.
        """
        self.env, self.senses, self.seed, self.experts = env, senses, seed, experts
        count = env.num_envs
        self.number = np.zeros(count, dtype=int)
        self.returns, self.lengths = np.zeros(count), np.zeros(count, dtype=int)
        self.successes, self.judged = np.zeros(count, dtype=bool), False
        self.observation: Observation | None = None
        self.tasks: tuple[str, ...] = ()

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
        """Begin a new episode in the environments marked."""
        mask = begun.numpy()
        self.number[mask] += 1
        self.observation = self._reset(mask)
        self.returns[mask], self.lengths[mask], self.successes[mask] = 0, 0, False
        if self.experts is not None:
            self.experts.begin(mask)

    def step(self, action: Float[Tensor, "E A"]) -> Step:
        """Step all environments."""
        returned, reward, terminated, truncated, info = self.env.step(action.numpy())
        self._note(info)
        self.observation = observe(returned, self.senses)
        self.returns += reward
        self.lengths += 1
        self.judged = "is_success" in info
        if self.judged:
            self.successes |= info["is_success"].astype(bool)
        ends = torch.from_numpy(np.array(terminated)), torch.from_numpy(np.array(truncated))
        return Step(self.observation, torch.from_numpy(np.array(reward, dtype=np.float32)), *ends)

    def _reset(self, mask: np.ndarray) -> Observation:
        """Reset the environments (E,) marked to the start of their episodes; return the observation of all."""
        seeds = [self.seed(env, int(number)) for env, number in enumerate(self.number)]
        options: dict[str, object] = {"reset_mask": mask.copy()}
        if self.experts is not None:
            options |= self.experts.asking(self.number, mask)
            self.experts.forget(mask)
        returned, info = self.env.reset(seed=seeds, options=options)
        self._note(info)
        self.tasks = tuple(info.get("task", ()))
        return observe(returned, self.senses)

    def _note(self, info: dict) -> None:
        if self.experts is not None:
            self.experts.hear(info)

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
        """Step every environment through its running episode again, with starts staggered so that all finish together.

        The actions are those in `replay`, and the seeds the original ones. Returns "" or, if it failed, the reason.
        """
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
            self._note(info)
            observation, ended = observe(returned, self.senses), terminated | truncated
            if (ended & (done >= 0)).any():
                return astray
            if ended.any():
                observation = self._reset(ended)
        if most and (self.lengths == 0).any():
            observation = self._reset(self.lengths == 0)
        same = all(torch.equal(observation.values[key], value) for key, value in self.now.values.items())
        return "" if same else astray


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
