"""The same for the rerun viewer: curves of the joints and the limits, what each camera shows, the plan in words."""

import math
from pathlib import Path

from robot.running.loop import Moment
from robot.running.view import Nothing, sentence
from worldmodel.settings import TokenConfig


class Rerun(Nothing):
    """Logs every tick to a viewer that it opens, or to `file`, for `rerun <file>`.

    Entities: `joints/measured`, `joints/sent` (in the robot's own units), `margins`, `tick` and `plan` in milliseconds,
    `camera/<name>` as the model sees it, `token` as text when it changes. On the timelines `tick` and `time`, seconds.
    """

    def __init__(self, token: TokenConfig, hz: float, file: str = ""):
        """Open the viewer, or the file. Raises ValueError if rerun is not installed, OSError for the file."""
        try:
            import rerun  # noqa: PLC0415
        except ImportError as error:
            raise ValueError("viewer=rerun: not installed; uv pip install rerun-sdk, or viewer=terminal") from error
        self._rerun, self._token, self._hz = rerun, token, hz
        self._tick, self._told, self._named = 0, "", False
        self._stream = rerun.RecordingStream("semagram-run")
        if file:
            Path(file).touch()  # rerun itself does not say why it cannot write
            self._stream.save(file)
        else:
            self._stream.spawn()

    def __call__(self, moment: Moment) -> None:
        """Log a tick."""
        if not self._named:
            self._name(moment)
        rerun, log, robot = self._rerun, self._stream.log, moment.robot
        self._stream.set_time("tick", sequence=self._tick)
        self._stream.set_time("time", duration=self._tick / self._hz)
        self._tick += 1
        log("joints/measured", rerun.Scalars(moment.measured))
        log("joints/sent", rerun.Scalars(robot.command.values))
        log("margins", rerun.Scalars([left for _, left in robot.command.margins.least().values()]))
        log("tick", rerun.Scalars([1000 * moment.late_s, 1000 * moment.work_s]))
        log("plan", rerun.Scalars([moment.plans.plan_ms[-1] if moment.plans.plan_ms else math.nan]))
        for name, frame in moment.frames.items():
            log(f"camera/{name}", rerun.Image(frame))
        told = sentence(moment, self._token, self._hz)
        if told != self._told:
            self._told = told
            log("token", rerun.TextLog(told))

    def say(self, text: str) -> None:
        """Print a line, and log it."""
        super().say(text)
        self._stream.log("said", self._rerun.TextLog(text))

    def close(self) -> None:
        """Write what is left."""
        self._stream.flush()
        self._stream.disconnect()

    def _name(self, moment: Moment) -> None:
        self._named = True
        joints, kinds = moment.robot.gate.limits.names, [*moment.robot.command.margins.least()]
        names = {"joints/measured": joints, "joints/sent": joints, "margins": kinds}
        names |= {"tick": ["late ms", "read to sent ms"], "plan": ["ms"]}
        for entity, lines in names.items():
            self._stream.log(entity, self._rerun.SeriesLines(names=list(lines)), static=True)
