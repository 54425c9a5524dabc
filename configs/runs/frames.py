"""Frames of a LeRobotDataset as an agent perceives them. Importing LeRobot takes seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from configs.reporting import say
from worldmodel.errors import UserError
from worldmodel.model import WorldModel
from worldmodel.observation import FrameHistory, Observation
from worldmodel.senses import STATE_KEY, is_image

MOST = 100  # frames of success, or of none, that are read of a dataset, evenly chosen


@torch.no_grad()
def encoded(observation: Observation, model: WorldModel) -> Float[Tensor, "B D"]:
    """Return the latents of single moments, as if nothing had moved before them."""
    return model.encode(model.preprocess(FrameHistory(model.config.vision.frame_lags).see(observation)))


@dataclass(frozen=True)
class Frames:
    """The frames of a dataset on disk, which LeRobot reads."""

    folder: Path
    dataset: Any  # a LeRobotDataset

    @classmethod
    def read(cls, folder: Path) -> "Frames":
        """Open a dataset. Raises UserError."""
        from robot.datasets import info_of, opened

        info_of(folder)
        return cls(folder, opened(folder))

    def row(self, episode: int, step: int) -> int:
        """Return the row of a step. Raises UserError if it is not there."""
        number = np.array(self.dataset.hf_dataset["episode_index"])
        rows = np.flatnonzero(number == episode)
        if not step < len(rows):
            there = f"it has {len(rows)} steps" if len(rows) else f"there are episodes 0 to {number.max(initial=0)}"
            raise UserError(f"step {step} of episode {episode}: {there}, from 0")
        return int(rows[step])

    def of_success(self, done: bool, model: WorldModel) -> Float[Tensor, "G D"]:
        """Return the latents of frames after which the task was done, or was not. Raises UserError if none says so."""
        from robot import recording

        table, marks = self.dataset.hf_dataset, recording.marks_of(self.folder)
        steps = np.ravel(table[recording.SUCCESS]) if recording.SUCCESS in self.dataset.features else None
        number, known = np.array(table["episode_index"]), list[np.ndarray]()
        for episode in np.unique(number):
            here = np.flatnonzero(number == episode)
            after = recording.done(marks[episode][0], None if steps is None else steps[here], len(here))
            known += [] if after is None else [here[after == done]]
        if not known:
            lacking = f"no {recording.SUCCESS} was recorded and no episode marked (semagram-data mark=)"
            raise UserError(f"examples={self.folder}: {lacking}; a file of lines episode, step, good does, too")
        rows = np.concatenate(known)
        return self.latents(rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST)).astype(int)].tolist(), model)

    def latents(self, rows: Sequence[int], model: WorldModel) -> Float[Tensor, "G D"]:
        """Return the latents of these frames, by what the agent perceives. Raises UserError if no sense is there."""
        from robot.datasets import quiet
        from robot.modeling_semagram import perceived

        found = [torch.zeros(0, model.config.latent)]
        for row in rows:
            with quiet():
                frame = self.dataset[row]
            batch = {key: value[None] for key, value in frame.items() if isinstance(value, Tensor)}
            state, seen = batch.get(STATE_KEY), any(is_image(key) for key in batch.keys() & model.senses.keys())
            if seen and state is not None and state.shape[1:] != model.senses.get(STATE_KEY):
                if row == rows[0]:
                    say(f"{self.folder}: its {STATE_KEY} is not this agent's, and left out")
                del batch[STATE_KEY]
            found.append(encoded(perceived(batch | {"task": [frame["task"]]}, model.senses, wordless=True), model))
        return torch.cat(found)
