"""What a checkpoint makes of recordings that it did not learn from: how near its motions are, what value foretells."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from configs.runs.recordings import Recordings, Shown
from configs.runs.run_folder import RECORDED
from policies.guidance.compiling import auc
from policies.tokens.curves import Curve
from sim.so101.joints import JOINTS, Targets
from worldmodel.model import WorldModel
from worldmodel.replay import Replay, window_at

SOON_S = 1.0
"""A value is to tell the moments from which the task is done within this time from the others."""
TOGETHER = 512
DRAWN = 3


class HeldOut:
    """Recorded episodes, each step of which is predicted. `lags`: of the frames that the model sees together."""

    def __init__(self, shown: Sequence[Shown], targets: Targets, model: WorldModel, hz: float):
        self.shown, self.targets, self.curve = shown, targets, Curve.of_token(model.config.token, 6)
        capacity = sum(len(each.observation) for each in shown)
        self.replay = Replay(capacity, 1, model.senses, 6, lags=model.config.vision.frame_lags)
        self.first, soon = [], []
        for each in shown:
            self.first.append(int(self.replay.head[0]) + 1)
            self.replay.insert(0, each.observation, each.action, each.reward, each.imitated)
            ahead = np.zeros(len(each.action), bool) if each.done is None else each.done
            reach = np.convolve(ahead[::-1], np.ones(max(1, round(SOON_S * hz))))[: len(ahead)][::-1] > 0.5
            soon.append(reach)
        self.soon = np.concatenate(soon)

    @classmethod
    def of(cls, own: Recordings, model: WorldModel, hz: float) -> "HeldOut":
        """Return those that a run holds out; all that it learns from, if it holds out none."""
        return cls(own.held or own.shown, own.targets, model, hz)

    def figures(self, model: WorldModel) -> dict[str, float | None]:
        """Return RECORDED: the mean distance of the policy's actions from those recorded, in actions of -1 to 1.

        And how often the value is higher at a moment before the task is done within SOON_S than at one that is not, the
        area under the ROC curve; None where all moments are alike.
        """
        errors, values = [], []
        for first, each in zip(self.first, self.shown, strict=True):
            rows = first + np.arange(len(each.action))
            actions, value = self._predicted(model, rows)
            ends = len(rows) - self.curve.length + 1
            recorded = np.lib.stride_tricks.sliding_window_view(each.action.numpy(), self.curve.length, 0)
            errors.append(np.abs(actions[:ends] - recorded.swapaxes(1, 2)).mean((1, 2)))
            values.append(value)
        found = round(float(np.concatenate(errors).mean()), 5), auc(np.concatenate(values), self.soon)
        return dict(zip(RECORDED, found, strict=True))

    @torch.no_grad()
    def _predicted(self, model: WorldModel, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what the policy would do at these rows, actions (N, L, 6), and the value of that (N,)."""
        actions, values = [], []
        for part in np.split(rows, range(TOGETHER, len(rows), TOGETHER)):
            at = torch.from_numpy(part)
            window = window_at(self.replay, torch.zeros_like(at), at, 1, self.curve.length)
            z = model.encode(model.preprocess(window.seen.map(lambda x: x[0])))
            start = model.starts(self.curve.encode(window.action[0])).to(model.device)
            token, value = model.greedy_token(z, start)
            actions.append(self.curve.decode(token.cpu()).clamp(-1, 1).numpy())
            values.append(value.cpu().numpy())
        return np.concatenate(actions), np.concatenate(values)

    def draw(self, path: Path, model: WorldModel, curve: Sequence[tuple[int, float]]) -> None:
        """Draw each joint's recorded targets and those predicted, for some episodes; and the error over the updates."""
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        from envs.benchmark.figures import save

        count = min(DRAWN, len(self.shown))
        with rc_context({"font.size": 9}):
            figure = Figure(figsize=(12, 2.2 * (count + 1)), layout="constrained")
            grid = figure.subplots(count + 1, 6, squeeze=False)
            for row, (each, first) in enumerate(zip(self.shown[:count], self.first, strict=False)):
                starts = np.arange(0, len(each.action), self.curve.length)
                actions, _ = self._predicted(model, first + starts)
                for joint, axis in enumerate(grid[row]):
                    axis.plot(np.degrees(each.before[:, joint]), color="#333333", lw=1.2, label="recorded")
                for start, token in zip(starts, actions, strict=True):
                    path_of = [each.before[start]]
                    for action in token:
                        path_of.append(self.targets.next(path_of[-1], action))
                    for joint, axis in enumerate(grid[row]):
                        axis.plot(start + np.arange(len(path_of)), np.degrees(path_of)[:, joint], color="#D55E00", lw=1)
                grid[row][0].set_ylabel(f"episode {each.episode.number}, degrees")
            for name, axis in zip(JOINTS, grid[0], strict=True):
                axis.set_title(name.replace("_", " "), fontsize=9)
            for axis in grid[-1][1:]:
                axis.remove()
            grid[-1][0].plot(*zip(*curve, strict=True), color="#0072B2", marker="o", ms=3)
            grid[-1][0].set(xlabel="updates", ylabel="held-out action error", ylim=(0, None))
            figure.suptitle("Targets of held-out episodes: recorded (grey), predicted from each state (orange)")
            save(path, figure)
