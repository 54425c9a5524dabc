"""The twin's MuJoCo model: the SO-101 on a table, with servo-like actuators and a constraint to hold each joint."""

from pathlib import Path

import mujoco

from sim.assets import asset
from sim.errors import InvalidValue
from sim.joints import JOINTS

ARM = ("SO101_menagerie", "so101.xml")
REST = (0.0, -1.57, 1.57, 0.66, 0.0, 0.0)  # rad; folded, as the arm lies with its motors off


def build(scene: Path | str | None = None) -> mujoco.MjModel:
    """Compile the arm on a bare table, or the `scene` file, which must have the arm's joints and actuators by name.

    Purely visual geometry is removed (masses remain, since only bodies with explicit inertia lose any). Actuators take
    target angles, as servos do, even beyond the joint's stops. `hold <joint>` is an equality constraint, initially
    inactive, that pins a joint as a hand would. Raises ValueError for an invalid scene or one without such an arm.
    """
    path = Path(scene) if scene else asset(*ARM)
    try:
        return _spec(path, bare=not scene).compile()
    except ValueError as error:
        if isinstance(error, InvalidValue):
            raise
        raise InvalidValue(f"{path}: not a MuJoCo scene: {error}") from error


def _spec(path: Path, bare: bool) -> mujoco.MjSpec:
    spec = mujoco.MjSpec.from_file(str(path))
    for kind, names in (("joint", {j.name for j in spec.joints}), ("actuator", {a.name for a in spec.actuators})):
        if missing := [joint for joint in JOINTS if joint not in names]:
            raise InvalidValue(f"{path}: no {kind} {', '.join(missing)}; an SO-101 has {', '.join(JOINTS)}")
    _undress(spec)
    if bare:
        spec.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.05])
    for actuator in spec.actuators:
        actuator.ctrllimited = False
    for joint in JOINTS:
        kinds = {"type": mujoco.mjtEq.mjEQ_JOINT, "objtype": mujoco.mjtObj.mjOBJ_JOINT}
        spec.add_equality(name=f"hold {joint}", name1=joint, active=False, **kinds)
    return spec


def limits(model: mujoco.MjModel) -> dict[str, tuple[float, float]]:
    """Return each joint's mechanical stops in rad."""
    ranges = {joint: model.joint(joint).range for joint in JOINTS}
    return {joint: (float(low), float(high)) for joint, (low, high) in ranges.items()}


def _undress(spec: mujoco.MjSpec) -> None:
    """Delete geoms that collide with nothing, and the meshes that are then unused."""
    for body in spec.bodies:
        for geom in list(body.geoms):
            if body.explicitinertial and geom.contype == 0 and geom.conaffinity == 0:
                spec.delete(geom)
    used = {geom.meshname for geom in spec.geoms}
    for mesh in list(spec.meshes):
        if mesh.name not in used:
            spec.delete(mesh)
