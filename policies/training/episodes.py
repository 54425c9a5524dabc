"""The running episodes of a vector of environments: their progress, and how to replay them after a resume."""

import numpy as np
import torch
from torch import Tensor

from policies.settings import LoopConfig
from policies.storage.folders import part
from policies.training.experts import Experts
from policies.training.rollouts import as_tensors, episode_seed, succeeded
from worldmodel.replay import Replay


class RunningEpisodes:
    """The running episode of each of E environments: its number, from 1, and its length, return and success so far.

    `observation`: the newest observation of all environments, empty before `begin`. `judged`: whether the environments
    report success. `retrace` brings freshly created environments back to `observation`.
    """

    def __init__(self, env, action_size: int, config: LoopConfig):
        """Track the episodes of `env`; `config` gives the base seed of all episodes, and how experts take part."""
        self.env, self.config = env, config
        count = env.num_envs
        self.episode = np.zeros(count, dtype=int)
        self.returns, self.lengths = np.zeros(count), np.zeros(count, dtype=int)
        self.successes, self.judged = np.zeros(count, dtype=int), False
        self.observation: dict[str, Tensor] = {}
        self.experts = Experts(count, action_size, config)

    def begin(self, ended: np.ndarray) -> None:
        """Begin a new episode in the environments (E,) marked in `ended`."""
        self.episode[ended] += 1
        self.observation = self.reset(ended)
        self.returns[ended], self.lengths[ended], self.successes[ended] = 0, 0, 0
        self.experts.begin(ended)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Step all environments by `action` (E, A); return reward, terminated and truncated, each (E,)."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.experts.hear(info)
        self.observation = as_tensors(observation)
        self.returns += reward
        self.lengths += 1
        if (now := succeeded(info)) is not None:
            self.successes |= now
        self.judged = now is not None
        return reward, terminated, truncated

    def of(self, env: int) -> dict[str, Tensor]:
        """Return the newest observation of environment `env`, without the batch dimension."""
        return {key: value[env] for key, value in self.observation.items()}

    def reset(self, ended: np.ndarray) -> dict[str, Tensor]:
        """Reset the environments (E,) marked in `ended` to the start of their episodes; return all E observations."""
        seeds = [episode_seed(self.config.seed, 0, i, int(number)) for i, number in enumerate(self.episode)]
        options = {"reset_mask": ended.copy(), **self.experts.asking(self.episode, ended)}
        self.experts.forget(ended)
        observation, info = self.env.reset(seed=seeds, options=options)
        self.experts.hear(info)
        return as_tensors(observation)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the progress of the running episodes as tensors."""
        return {
            "episode": torch.from_numpy(self.episode.copy()),
            "returns": torch.from_numpy(self.returns.copy()),
            "lengths": torch.from_numpy(self.lengths.copy()),
            "successes": torch.from_numpy(self.successes.copy()),
            **{f"experts.{name}": t for name, t in self.experts.state_dict().items()},
            **{f"seen.{key}": value for key, value in self.observation.items()},
        }

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned; `retrace` then brings the environments to that state."""
        self.episode = saved["episode"].numpy().copy()
        self.returns, self.lengths = saved["returns"].numpy().copy(), saved["lengths"].numpy().copy()
        self.successes = saved["successes"].numpy().copy()
        self.experts.load_state_dict(part(saved, "experts."))
        self.observation = {key: value.clone() for key, value in part(saved, "seen.").items()}

    def retrace(self, replay: Replay) -> str:
        """Step every environment through its running episode again, with starts staggered so that all finish together.

        The actions are those in `replay`, and the seeds the original ones. Returns "" or, if it failed, the reason.
        """
        count, most, held = self.env.num_envs, int(self.lengths.max()), replay.rows - 1
        if most > held:
            return f"the running episode is {most} steps long, of which the replay holds {held}"
        astray = "the environment did not come back to where it was: it is not deterministic"
        observation = self.reset(np.ones(count, dtype=bool))
        for t in range(most):
            starting = self.lengths == most - t
            if t and starting.any():
                observation = self.reset(starting)
            done = t - (most - self.lengths)  # steps into the episode; negative while still waiting to start
            action = torch.zeros(count, replay.action.shape[-1])
            for i in np.flatnonzero(done >= 0):
                row = (int(replay.head[i]) - int(self.lengths[i]) + int(done[i])) % replay.rows
                action[i] = replay.action[i, row]
            stepped, _, terminated, truncated, info = self.env.step(action.numpy())
            self.experts.hear(info)
            observation, ended = as_tensors(stepped), terminated | truncated
            if (ended & (done >= 0)).any():
                return astray
            if ended.any():
                observation = self.reset(ended)
        late = self.lengths == 0
        if most and late.any():
            observation = self.reset(late)
        same = all(torch.equal(observation[key], value) for key, value in self.observation.items())
        return "" if same else astray
