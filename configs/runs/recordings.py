"""Recordings as memory (`data=`): what they say of the task, and their steps as the task's environment shows them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs.reporting import say
from configs.runs.elsewhere import Elsewhere
from configs.runs.nearby import HAND, Nearby
from configs.schema import TrainConfig
from envs.arm import LAG, known, labels
from envs.settings import ARM_TASKS, OWN, SOLVED, TaskConfig
from envs.state_estimator import StateEstimator
from policies.tokens.curves import Curve
from robot.datasets import DatasetError
from robot.recorded import INTERVENTION, REWARD, Episode, described, episodes_of, found, marks_of
from robot.recording import SCENE
from robot.safety.limits import Units
from sim.renderer import shows
from sim.so101 import scene as so101
from sim.so101.joints import JOINTS, Targets
from sim.so101.tasks import ABSOLUTE, FULL
from sim.so101.tasks import JOINTS as JOINTS_ALONE
from worldmodel.model import WorldModel
from worldmodel.observation import Observation
from worldmodel.replay import Replay
from worldmodel.senses import STATE_KEY, Shapes, is_image
from worldmodel.strict import ConfigError

ALONE = "so101-move"
"""The task that stands for the arm itself, where a recording does not say which of the simulated tasks it shows."""
LOOKS = 25
"""How often a run on recordings alone looks at the episodes held out, unless set otherwise."""
LEASH, ENCODER_LR = 100.0, 1.0
"""How near a search stays to the policy (`planner.anchor`) unless set otherwise, as what nobody did has no value; and
the factor on the encoder's learning rate: where actions are imitated, no value has to settle first."""
TOKEN_S = 1 / 30
"""How long a token lasts unless set otherwise, in seconds."""
HOLD_S, REST_RAD_S = 1.5, 0.1
"""For how long an arm that rests at a successful episode's end is taken to stay there; the joints' speeds at rest."""


def adapted(keys: dict, given: Collection[str]) -> dict:
    """Return the keys of semagram-train, with all that the recordings say filled in where the user did not set it.

    The rate, the state of the joints or of the whole scene, the cameras, a token's length; without `task=`, `envs=0`.
    Raises DatasetError, and ConfigError for keys that do not fit the recordings.
    """
    names = [keys["data"]] if isinstance(keys["data"], str) else keys["data"]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"data={names!r}: folders of datasets, e.g. data=runs/lift or data=[runs/lift,runs/more]")
    folders = [found(name) for name in names]
    info = described(folders)
    features, fps = info["features"], float(info["fps"])
    _check_joints(folders[0], info)
    online = keys["task"]["name"] in ARM_TASKS
    if not online and "task" in given:
        raise ConfigError(f"data=: recorded of an SO-101; task={keys['task']['name']} is none of its tasks")
    whole = SCENE in features
    simulated = {task for folder in folders for _, task in marks_of(folder).values() if task}
    if len(simulated) > 1:
        raise DatasetError(f"data=: of different simulated tasks, {' and '.join(sorted(simulated))}")
    chosen = {
        leaf: keys["task"][leaf]
        for group, _, leaf in (name.partition(".") for name in given)
        if group == "task" and leaf
    }
    own = keys["task"] if online else {"name": min(simulated, default=ALONE)} | chosen
    own = own | ({} if "task.control_hz" in given else {"control_hz": fps})
    if "task.reward" not in given:
        own = own | {"reward": OWN if REWARD in features else SOLVED}
    cameras = [key.removeprefix("observation.") for key in features if is_image(key)]
    filled = {**keys, "data": [str(folder.absolute()) for folder in folders]}
    if "senses" not in given:
        filled["senses"] = ["state", *cameras]
    if "task.state" not in given:
        own = own | {"state": FULL if whole and not any(map(_camera, filled["senses"])) else JOINTS_ALONE}
    filled["task"] = own
    if not online and "envs" not in given:
        filled["envs"] = 0
    if filled["envs"] == 0 and "evaluation.every" not in given and isinstance(keys["steps"], int):
        filled["evaluation"] = keys["evaluation"] | {"every": max(1, keys["steps"] // LOOKS)}
    if "planner.anchor" not in given:
        filled["planner"] = keys["planner"] | {"anchor": LEASH}
    if not online and "learning.encoder_lr_scale" not in given:
        filled["learning"] = keys["learning"] | {"encoder_lr_scale": ENCODER_LR}
    if whole and own["state"] == FULL and "model.poses" not in given:
        names = features[SCENE]["names"]
        poses = [at for at, name in enumerate(names) if name.endswith("_pose[0]")]
        hand_first = sorted(poses, key=lambda at: names[at] != f"{HAND}[0]")
        filled["model"] = keys["model"] | {"poses": hand_first if len(poses) > 1 else []}
    if not any(name.startswith(("token", "model.token")) for name in given):
        joined = own.get("control") != ABSOLUTE
        token = {"length": max(1, round(TOKEN_S * fps)), "control_points": 2, "degree": 1, "joined": joined}
        filled["model"] = filled["model"] | {"token": token if token["length"] > 1 else keys["model"]["token"]}
    return filled


def _camera(sense: str) -> bool:
    return sense.startswith("images.")


def _check_joints(folder: Path, info: dict) -> None:
    """Raise DatasetError unless actions are targets of the SO-101's joints, and the state their positions."""
    for key in ("action", STATE_KEY):
        names = info["features"].get(key, {}).get("names")
        if names != [f"{joint}.pos" for joint in JOINTS]:
            whose = f"of {info.get('robot_type')}, " if info.get("robot_type") else ""
            what = (
                f"{whose}{', '.join(map(str, names or ['nothing']))}; learned from are positions of {', '.join(JOINTS)}"
            )
            raise DatasetError(f"{folder}: its {key} is {what}")


@dataclass(frozen=True)
class Shown:
    """A recorded episode as the task's environment would have shown it: T steps, T + 1 observations.

    `action` (T, A), `reward` (T,), `imitated` (T,): whether the policy is to do likewise. `before` (T, 6): the joint
    targets in rad before each step. `done` (T,): whether the task was done after it; None if nothing says so. `wanted`
    (T, P): the tokens to imitate, if not what was done.
    """

    episode: Episode
    observation: Observation
    action: Tensor
    reward: Tensor
    imitated: Tensor
    before: np.ndarray
    done: np.ndarray | None
    wanted: Tensor | None = None


@dataclass(frozen=True)
class Recordings:
    """The recordings of a run, of which `held` are not learned from. `targets`: from actions to joint targets.

    `nearby`: copies of those learned from, as they might have been.
    """

    shown: list[Shown]
    held: list[Shown]
    targets: Targets
    decode_seconds: float
    nearby: Sequence[Shown] = ()

    @property
    def longest(self) -> int:
        """Control steps of the longest episode."""
        return max(len(each.episode) for each in (*self.shown, *self.held))

    def summary(self) -> dict:
        """Return how much there is of them."""
        both = self.shown + self.held
        return {
            "episodes_recorded": len(both),
            "episodes_held_out": len(self.held),
            "steps_recorded": sum(len(each.episode) for each in both),
            "decode_seconds": round(self.decode_seconds, 1),
        }

    def fill(self, replay: Replay, model: WorldModel) -> None:
        """Store the episodes to learn from in a replay, evenly in its environments' rings; show `model` the states."""
        rings = len(replay.head)
        for i, each in enumerate((*self.shown, *self.nearby)):
            replay.insert(i % rings, each.observation, each.action, each.reward, each.imitated, each.wanted)
            model.observe(each.observation)


def recorded(config: TrainConfig, senses: Shapes) -> Recordings:
    """Read the recordings of a run. Raises DatasetError."""
    if wrong := [key for key in senses if key != STATE_KEY and not is_image(key)]:
        raise ConfigError(f"senses=[...,{wrong[0].removeprefix('observation.')}]: not with data=")
    whole = as_recordings(config.task, senses, config.data, config.cache_gb)
    kept, held = apart(whole.shown, config.held_out, config.seed)
    if config.learning.value_coef and not any(each.reward.any() for each in kept):
        why = "nothing says when the task was done" if kept[0].done is None else "no episode succeeds"
        raise DatasetError(f"data=: {why}, so there is no value to learn; learning.value_coef=0 imitates alone")
    say(
        f"{len(kept)} recorded episodes to learn from, {len(held)} held out; decoding took {whole.decode_seconds:.1f} s"
    )
    kept = [_held_still(each, whole.targets, config.task.arm.control_hz) for each in kept]
    nearby = [] if [*senses] != [STATE_KEY] else _nearby(config, kept)  # of frames there are no copies
    return replace(whole, shown=kept, held=held, nearby=nearby)


def apart(shown: Sequence[Shown], share: float, seed: int) -> tuple[list[Shown], list[Shown]]:
    """Return the episodes that a run learns from, and the `share` of them that it holds out, drawn by its seed."""
    order = np.random.default_rng([seed, 7]).permutation(len(shown))
    count = min(max(round(share * len(shown)), share > 0), len(shown) - 1)
    held = {*order[:count].tolist()}
    return [each for i, each in enumerate(shown) if i not in held], [shown[i] for i in sorted(held)]


def unseen(whole: Recordings, data: Sequence[str], config: Mapping, checkpoint: str) -> Recordings:
    """Return the recordings `data` without those that a checkpoint, trained with `config`, learned from.

    Of the data that it was trained with, all and in that order, these are what it held out. Raises ConfigError for a
    part of that data, and where it held out nothing.
    """
    learned = [found(name).resolve() for name in config.get("data") or () if Path(name).is_dir()]
    asked = [found(name).resolve() for name in data]
    held = apart(whole.shown, config["held_out"], config["seed"])[1] if asked == learned else []
    if both := [name for name, path in zip(data, asked, strict=True) if path in learned and not held]:
        own = f", or data=[{','.join(map(str, learned))}] for what it held out" if config["held_out"] else ""
        raise ConfigError(f"data={both[0]}: {checkpoint} learned from it; give it new recordings{own}")
    return replace(whole, shown=held or whole.shown)


def _held_still(each: Shown, targets: Targets, hz: float) -> Shown:
    """Return an episode that goes on for HOLD_S at its end, if the task is done there and the arm rests."""
    count, goal = round(HOLD_S * hz), targets.next(each.before[-1], each.action[-1].numpy())
    if each.done is None or not each.done[-1] or np.abs(goal - each.before[-1]).max() > REST_RAD_S / hz:
        return each

    def more(x: Tensor) -> Tensor:
        return torch.cat([x, x[-1:].expand(count, *x.shape[1:])])

    still = torch.from_numpy(targets.action(goal, goal)).float().expand(count, -1)
    return replace(
        each,
        observation=each.observation.map(more),
        action=torch.cat([each.action, still]),
        reward=more(each.reward),
        imitated=more(each.imitated),
        before=np.concatenate([each.before, np.tile(goal, (count, 1))]),
        done=np.append(each.done, np.ones(count, bool)),
    )


def _nearby(config: TrainConfig, kept: Collection[Shown]) -> list[Shown]:
    """Return `config.copies` of each episode that is imitated throughout (`configs.runs.nearby`)."""
    arm, rng, copies = config.task.arm, np.random.default_rng([config.seed, 8]), []
    with closing(StateEstimator(config.task)) as estimator:
        estimator.lay_out(0)
        wanted = labels(known(so101.components(config.task.name), arm.state))
        made = Nearby(wanted, estimator, arm.control_hz, Curve.of_token(config.model.token, len(JOINTS)))
        good = [each for each in kept if bool(each.imitated.all())]
        states = [each.observation.values[STATE_KEY].numpy() for each in good]
        elsewhere = Elsewhere.of(wanted, estimator, arm.control_hz, states)
        for each, state in zip(good, states, strict=True):
            goals = np.stack([made.targets.next(*step) for step in zip(each.before, each.action.numpy(), strict=True)])
            for _ in range(config.copies):
                moved = elsewhere.moved(state, each.before, goals, rng)
                changed, action, token = made.copy(*moved, rng)
                seen = each.observation.with_values({STATE_KEY: changed})
                copies.append(replace(each, observation=seen, action=action, wanted=token))
    return copies


def as_recordings(task: TaskConfig, senses: Shapes, data: Collection[str], cache_gb: float) -> Recordings:
    """Return recordings as a task's environment shows them, none of them held out.

    Raises DatasetError for recordings that lack what is perceived or are of another rate.
    """
    folders = [found(name) for name in data]
    info = described(folders)
    _check_joints(folders[0], info)
    if float(info["fps"]) != task.arm.control_hz:
        raise DatasetError(f"{folders[0]}: recorded at {info['fps']} Hz, not at {task.arm.control_hz:g}")
    sizes = {key: (shape[0], shape[1]) for key, shape in senses.items() if is_image(key)}
    if lacking := [key for key in sizes if key not in info["features"]]:
        raise DatasetError(f"{folders[0]}: has no {lacking[0]}; it has {', '.join(info['features'])}")
    shown, seconds = [], 0.0
    with closing(StateEstimator(task, STATE_KEY in senses)) as estimator:
        wanted = labels(known(so101.components(task.name), task.arm.state))
        if task.arm.state == FULL and not set(wanted) <= set((info["features"].get(SCENE) or {"names": []})["names"]):
            raise DatasetError(
                f"{folders[0]}: does not tell where things are in {task.label}; task.state={JOINTS_ALONE}"
            )
        for folder in folders:
            episodes, took = episodes_of(folder, sizes, cache_gb)
            seconds += took
            for episode in episodes:
                if len(episode) > 2:
                    shown.append(_shown(task, senses, episode, estimator, info["features"], wanted))
    if not shown:
        raise DatasetError(f"data=[{','.join(data)}]: no episode of more than two steps")
    return Recordings(shown, [], estimator.targets, seconds)


def _shown(
    task: TaskConfig, senses: Shapes, episode: Episode, estimator: StateEstimator, features: dict, wanted: list[str]
) -> Shown:
    targets = estimator.targets
    units = Units(targets.low, targets.high)
    joints, goals = (units.to_rad(x.astype(np.float64)) for x in (episode.columns[STATE_KEY], episode.action))
    before = np.concatenate([joints[:1], goals[:-1]])
    if SCENE in features:
        names = features[SCENE]["names"]
        state = episode.columns[SCENE][:, [names.index(name) for name in wanted]]
        at = [[wanted.index(f"{part}[{i}]") for i in range(6)] for part in ("joint_positions", LAG)]
        before[0] = state[0, at[0]] + state[0, at[1]]
    else:
        state = np.stack([*_estimated(estimator, joints, before)])
    action = np.stack([targets.action(last, goal) for last, goal in zip(before, goals, strict=True)])
    values: dict[str, Tensor] = {STATE_KEY: torch.from_numpy(state)} if STATE_KEY in senses else {}
    present = {}
    for key, frames in episode.frames.items():
        values[key] = torch.from_numpy(np.array(frames))
        present[key] = torch.tensor([shows(frame) for frame in frames])
    done, columns = episode.done, episode.columns
    if done is not None:  # what followed the last step was not recorded, but whether it did it
        done = np.append(done[:-2], done[-2] | done[-1])
    reward = np.zeros(len(episode) - 1) if done is None else done
    if task.reward == OWN and REWARD in columns:
        reward = columns[REWARD].reshape(-1)[:-1]
    good = episode.success is not False if done is None else bool(done.any())
    by_hand = columns[INTERVENTION].reshape(-1) > 0 if INTERVENTION in columns else np.zeros(len(episode), bool)
    return Shown(
        episode=episode,
        observation=Observation.of(senses, values, present),
        action=torch.from_numpy(action[:-1]).float(),
        reward=torch.from_numpy(np.asarray(reward, np.float32)),
        imitated=torch.from_numpy(by_hand[:-1] | good),
        before=before[:-1],
        done=done,
    )


def _estimated(estimator: StateEstimator, joints: np.ndarray, before: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the state (S,) at each step as `semagram-run` computes it, of an arm that only reports its joints."""
    estimator.lay_out(0)
    for read, sent in zip(joints, before, strict=True):
        estimator.follow(read, sent)
        yield estimator.state(np.zeros((0, 6)))
