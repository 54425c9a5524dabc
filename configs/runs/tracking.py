"""Experiment trackers: what a run measures and leaves, sent to TensorBoard, Weights & Biases or Trackio as well.

Each is an extra, imported when it is asked for. None can stop a run: the first error of one is said in a line, and the
run goes on without it. Nothing leaves this machine unless the tracker's own environment variables ask for it.
"""

import json
import os
import secrets
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from configs.arguments import brought_by
from configs.reporting import say
from policies.storage.folders import replace_file
from worldmodel.errors import UserError, in_one_line

Callback = Callable[[dict[str, float | None]], object]
"""What a script gives to be called with each row of metrics.csv and its times; if it returns True, training ends."""


class TensorBoard:
    """Event files in the run folder's `tensorboard/`, for `tensorboard --logdir runs`. A film is shown by its path."""

    def __init__(self, folder: Path, config: dict, label: str, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)  # what follows comes again
        self.writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in config.items()))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add each number to its curve."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def files(self, pictures: list[Path], film: Path | None, step: int) -> None:
        """Add the pictures, and where the film is."""
        import imageio.v2 as imageio

        for path in pictures:
            self.writer.add_image(path.stem, imageio.imread(path)[..., :3], step, dataformats="HWC")
        if film:
            self.writer.add_text("film", str(film), step)

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


class Runs:
    """A run of Weights & Biases or of Trackio, whose functions have the same names.

    Weights & Biases writes to the run folder's `wandb/`, offline unless WANDB_MODE says otherwise; Trackio to its own
    database (TRACKIO_DIR). `wandb.json` or `trackio.json` holds the id to resume and the last step logged, with its
    names.
    """

    def __init__(self, name: str, folder: Path, config: dict, label: str, step: int):
        self.library, self.file = import_module(name), folder / f"{name}.json"
        self.known: dict[str, Any] = {"id": secrets.token_hex(8), "step": -1, "names": []}
        if self.file.exists():
            self.known = json.loads(self.file.read_text())
        self.before, title, own = self.known, f"{label} {folder.name}", {}
        if name == "wandb":
            own = {
                "dir": str(folder),
                "settings": self.library.Settings(disable_git=True, disable_code=True, console="off", silent=True),
                "mode": os.environ.get("WANDB_MODE", "offline"),
                "id": self.known["id"],
            }
        else:  # goes on with a run by its name
            title += f" {self.known['id'][:4]}"
        self.run = self.library.init(project="semagram", name=title, config=config, resume="allow", **own)
        if name == "wandb":
            self.run.define_metric("*", step_metric="env_steps")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log the numbers, unless they were logged before the run was resumed."""
        last, names = self.before["step"], {*values}
        if step < last or (step == last and names <= {*self.before["names"]}):
            return
        self.run.log({**values, "env_steps": step})
        if step == self.known["step"]:
            names |= {*self.known["names"]}
        self.known = {"id": self.known["id"], "step": step, "names": sorted(names)}
        replace_file(self.file, json.dumps(self.known).encode())

    def files(self, pictures: list[Path], film: Path | None, step: int) -> None:
        """Log the pictures and the film."""
        media: dict[str, Any] = {path.stem: self.library.Image(str(path)) for path in pictures}
        if film:
            media[film.stem] = self.library.Video(str(film), format="mp4")
        self.run.log({**media, "env_steps": step})

    def close(self) -> None:
        """End the run."""
        self.run.finish()


def check_installed(names: tuple[str, ...]) -> None:
    """Raise UserError if a tracker is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"track=[{name}]: {brought_by(name)}")


class Trackers:
    """All trackers of a run, of which each is dropped at its first error, in a line."""

    def __init__(self, names: tuple[str, ...], folder: Path, config: dict, label: str, step: int = 0):
        """Start the trackers `names` at an environment step."""
        self.each: dict[str, TensorBoard | Runs] = {}
        for name in names:
            make = TensorBoard if name == "tensorboard" else lambda *a, name=name: Runs(name, *a)
            self._safely(name, lambda: self.each.__setitem__(name, make(folder, config, label, step)))  # noqa: B023  at once

    def scalars(self, values: Mapping[str, float | None], step: int) -> None:
        """Give all trackers the numbers that are there at this environment step."""
        known = {name: value for name, value in values.items() if value is not None and value == value}
        self._all(lambda tracker: tracker.scalars(known, step))

    def files(self, pictures: list[Path], film: Path | None, step: int) -> None:
        """Give all trackers those pictures and the film that exist."""
        there = film if film and film.exists() else None
        self._all(lambda tracker: tracker.files([path for path in pictures if path.exists()], there, step))

    def close(self) -> None:
        """Close all trackers."""
        self._all(lambda tracker: tracker.close())
        self.each.clear()

    def _all(self, work: Callable[[TensorBoard | Runs], None]) -> None:
        for name, tracker in [*self.each.items()]:
            self._safely(name, lambda: work(tracker))  # noqa: B023  called at once

    def _safely(self, name: str, work: Callable[[], None]) -> None:
        """Do some work of a tracker's; at an error of whatever kind, drop the tracker and say so."""
        try:
            work()
        except Exception as error:
            self.each.pop(name, None)
            say(f"track=[{name}]: the run goes on without it ({type(error).__name__}: {in_one_line(error)})")
