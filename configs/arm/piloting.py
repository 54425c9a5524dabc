"""A checkpoint as the driver of a recording in simulation, shown the scene as it was in training."""

import numpy as np
import torch

from configs.runs.loading import load_agent
from envs.arm import known, seen
from envs.senses import Senses
from envs.settings import TaskConfig
from policies.text_encoder import WORDS
from robot.arm_options import CAMERAS
from robot.config_so101_sim import sim_cameras
from robot.drivers import PolicyDriver
from robot.recording.settings import RecordConfig
from robot.so101_sim import SimCamera, SO101Sim
from sim.renderer import RenderingUnavailable, shows
from sim.so101 import scene as so101
from sim.so101.joints import Targets
from worldmodel.errors import UserError
from worldmodel.observation import Observation
from worldmodel.senses import LANGUAGE_KEY, STATE_KEY, Shapes, key


class SceneObserver:
    """Makes the observations for a model that perceives `senses`, of a simulated arm in `task`, told `sentence`."""

    def __init__(self, robot: SO101Sim, task: TaskConfig, senses: Shapes, sentence: str):
        """Open the model's own cameras, besides the robot's. Raises ValueError if one is missing or cannot render."""
        self._senses = senses
        self._parts = known(so101.components(robot.scene), task.arm.state) if STATE_KEY in senses else None
        looks, self._cameras = Senses.of(senses), {}
        self._told = {LANGUAGE_KEY: WORDS.encode([sentence])} if LANGUAGE_KEY in senses else {}
        if other := [name for name in looks.cameras if name not in CAMERAS]:
            raise UserError(f"checkpoint=: it looks through {other[0]}; in simulation there are {', '.join(CAMERAS)}")
        for name, config in sim_cameras(looks.sizes, round(task.arm.control_hz)).items():
            camera = SimCamera(config)
            camera.show(robot.scene)
            try:
                camera.connect()
            except RenderingUnavailable as error:
                raise UserError(f"checkpoint=: it looks through {name}: {error}") from error
            self._cameras[key(f"images.{name}")] = camera

    def see(self, scene: so101.VariedArm, target: np.ndarray) -> Observation:
        """Return the observation of one arm while the joint targets are `target` (6,), in rad."""
        observed, present = dict(self._told), {}
        if self._parts is not None:
            named = seen(scene.state(), self._parts, target)
            state = np.concatenate([named[name] for name in sorted(named)]).astype(np.float32)
            observed[STATE_KEY] = torch.from_numpy(state[None])
        for name, camera in self._cameras.items():
            frame = camera.read()
            observed[name] = torch.from_numpy(frame.copy()[None])
            present[name] = torch.tensor([shows(frame)])
        return Observation.of(self._senses, observed, present)

    def close(self) -> None:
        """Close the cameras."""
        for camera in self._cameras.values():
            camera.disconnect()


def pilot(config: RecordConfig, robot: SO101Sim) -> PolicyDriver:
    """Return a driver that acts by the checkpoint. Raises ValueError if it is for another task or rate, FolderError."""
    loaded = load_agent(config.checkpoint, config.seed, config.device, config.threads, config.planner)
    task = loaded.task
    if task.name != config.task_name or task.control_hz != config.control_hz:
        rate = f" at {task.control_hz} Hz" if task.control_hz else ""
        raise UserError(
            f"checkpoint={config.checkpoint}: is for task={task.label}{rate}, not {config.task_name} at "
            f"{config.control_hz} Hz"
        )
    targets = Targets.at(task.arm.control_hz, *so101.limits(robot.scene), task.arm.control)
    observer = SceneObserver(robot, task, loaded.spec.senses, config.sentence or task.words)
    return PolicyDriver(robot, loaded.agent, targets, observer)
