"""Named quantities: the numbers in which a person steers an agent and reads it, taken from a simulation at each step.

They are recorded beside the senses and never perceived. Names come, in this order, from the environment's own method
`quantities() -> {name: number}`, from the helpers of dm_control's tasks (`torso_height`), and from MuJoCo's model: a
hinge or slide joint `knee` (rad, m) and `knee.velocity` (rad/s, m/s), the place of a body or site `hand.x` (m), a
sensor. Without MuJoCo they are the components of the state.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from worldmodel.errors import UserError

MOST = 8  # entries of the largest array that a helper of a dm_control task may return to be taken
RENAMED = {"horizontal_velocity": "speed", "gripperframe": "tip", "pick_slot_0": "cube"}
"""Names of ours for what the models call otherwise."""
OF_TASK = {"reacher": {"finger": "tip"}}  # the same, in one domain of dm_control
LEFT_OUT = ("world", "baseframe")
UNITS = {"hinge": ("rad", "rad/s"), "slide": ("m", "m/s")}


class Quantities:
    """Reads the named quantities of one environment. `units`: the unit of each by name, "" if unknown."""

    def __init__(self, env: gymnasium.Env, labels: Sequence[str], state: Callable[[Any], np.ndarray]):
        """Find what `env` can tell; `labels` name its `state` (S,), used without MuJoCo. Raises UserError."""
        self.units: dict[str, str] = {}
        self._env = env
        self._readers: list[Callable[[Any], np.ndarray]] = []
        if own := _attribute(env, "quantities"):
            try:
                names = [*own()]
            except Exception as error:
                line = "it is called before the first reset, to learn the names"
                raise UserError(f"quantities(): {type(error).__name__}: {error}; {line}") from error
            self._take(dict.fromkeys(names, ""), lambda raw: [float(value) for value in own().values()])
        physics = _attribute(env, "physics")
        if physics is not None:
            self._helpers(physics)
        if simulation(env)[0] is not None:
            self._joints()
            self._places()
            self._sensors()
        elif not self.units:
            names = [label if not label.startswith("[") else f"state{label}" for label in labels]
            self._take(dict.fromkeys(names, ""), state)

    def read(self, raw: Any) -> np.ndarray:
        """Return the quantities (Q,) float32 now, in the order of `units`; NaN where not finite. `raw`: observed."""
        self._data = simulation(self._env)[1]
        with np.errstate(over="ignore"):
            values = np.concatenate([np.zeros(0), *(reader(raw) for reader in self._readers)]).astype(np.float32)
        values[~np.isfinite(values)] = math.nan
        return values

    def _take(self, units: Mapping[str, str], read: Callable[[Any], Any]) -> None:
        """Add quantities that `read` returns in this order, but for those whose name is taken."""
        new = np.array([name not in self.units for name in units], bool)
        if new.any():
            self.units |= {name: unit for name, unit in units.items() if name not in self.units}
            self._readers.append(lambda raw: np.asarray(read(raw), np.float64)[new])

    def _helpers(self, physics) -> None:
        """Add the methods that dm_control's task gives its physics, those without arguments that return few numbers."""
        for owner in type(physics).__mro__:
            if not owner.__module__.startswith("dm_control.suite"):
                continue
            for method, helper in vars(owner).items():
                if method.startswith("_") or not inspect.isfunction(helper):
                    continue
                if list(inspect.signature(helper).parameters) != ["self"]:
                    continue
                try:
                    size, name = np.size(helper(physics)), RENAMED.get(method, method)
                except LookupError:  # about a body that this task lacks, such as the ball of quadruped
                    continue
                if size <= MOST:
                    names = [name] if size == 1 else [f"{name}[{i}]" for i in range(size)]
                    self._take(dict.fromkeys(names, ""), self._asked(helper))

    def _asked(self, helper: Callable) -> Callable[[Any], np.ndarray]:
        return lambda raw: np.ravel(helper(_attribute(self._env, "physics")))

    def _joints(self) -> None:
        import mujoco

        model, _ = simulation(self._env)
        kinds = {int(mujoco.mjtJoint.mjJNT_HINGE): "hinge", int(mujoco.mjtJoint.mjJNT_SLIDE): "slide"}
        joints = [model.joint(i) for i in range(model.njnt)]
        joints = [joint for joint in joints if joint.name and int(joint.type[0]) in kinds]
        places, speeds = ([int(getattr(joint, at)[0]) for joint in joints] for at in ("qposadr", "dofadr"))
        units = [UNITS[kinds[int(joint.type[0])]] for joint in joints]
        named = [joint.name for joint in joints]
        self._take(dict(zip(named, (u[0] for u in units), strict=True)), lambda raw: self._data.qpos[places])
        rates = {f"{name}.velocity": u[1] for name, u in zip(named, units, strict=True)}
        self._take(rates, lambda raw: self._data.qvel[speeds])

    def _places(self) -> None:
        model, _ = simulation(self._env)
        task = getattr(getattr(_attribute(self._env, "spec"), "id", ""), "split", lambda _: [""])("/")[-1]
        renamed = RENAMED | OF_TASK.get(task.split("-")[0], {})
        for kind, at in (("body", "xpos"), ("site", "site_xpos")):
            found = [getattr(model, kind)(i) for i in range(getattr(model, f"n{kind}"))]
            found = [each for each in found if each.name and each.name not in LEFT_OUT]
            ids = [each.id for each in found]
            units = {f"{renamed.get(each.name, each.name)}.{axis}": "m" for each in found for axis in "xyz"}
            self._take(units, self._placed(at, ids))

    def _placed(self, at: str, ids: list[int]) -> Callable[[Any], np.ndarray]:
        return lambda raw: getattr(self._data, at)[ids].ravel()

    def _sensors(self) -> None:
        model, _ = simulation(self._env)
        entries: dict[str, int] = {}
        for sensor in filter(lambda sensor: sensor.name, map(model.sensor, range(model.nsensor))):
            size, first = int(sensor.dim[0]), int(sensor.adr[0])
            entries |= {sensor.name if size == 1 else f"{sensor.name}[{i}]": first + i for i in range(size)}
        self._take(dict.fromkeys(entries, ""), lambda raw: self._data.sensordata[[*entries.values()]])


def _attribute(env: gymnasium.Env, name: str):
    """Return an attribute of the environment or of a wrapper around it; None if there is none."""
    try:
        return env.get_wrapper_attr(name)
    except AttributeError:
        return None


def simulation(env: gymnasium.Env):
    """Return the MuJoCo model and data of an environment, which a reset may replace; (None, None) if it has none."""
    physics = _attribute(env, "physics")
    if physics is not None and hasattr(physics, "model") and hasattr(physics.model, "ptr"):
        return physics.model.ptr, physics.data.ptr
    model, data = _attribute(env, "model"), _attribute(env, "data")
    return (model, data) if type(model).__name__ == "MjModel" and type(data).__name__ == "MjData" else (None, None)
