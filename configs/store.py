"""Hydra's defaults, made from the commands' dataclasses, so that each default is written only once."""

from contextlib import nullcontext
from dataclasses import asdict, fields
from functools import cache

from omegaconf import DictConfig, OmegaConf

from configs.schema import DEFAULT_TASK, PEERS, BenchConfig, EvaluateConfig, PeerConfig, TokensConfig, TrainConfig
from envs.settings import NAMES, TaskConfig
from robot.recording.settings import RecordConfig
from robot.running.settings import PlayConfig, RunConfig, ServeConfig
from sim.twin.settings import TwinConfig
from sim.variation import PRESETS
from worldmodel.settings import TOKEN_PRESETS


@cache
def register() -> None:
    """Register the commands' defaults and the config groups with Hydra; later calls do nothing."""
    from hydra.core.config_store import ConfigStore

    _groups(ConfigStore.instance())
    for command in (_train, _evaluate, _tokens, _twin, _record, _run, _play, _serve, _bench):
        keys, folder, *chosen = command()
        node = {"defaults": [*chosen, *QUIET, "_self_"], **keys, **_hydra(folder)}
        ConfigStore.instance().store(name=command.__name__.removeprefix("_"), node=node)


def _groups(store) -> None:
    """Store the options of the config groups task, randomise, token and peer."""
    for name in NAMES:
        store.store(group="task", name=name, node=TaskConfig(name).keys())
    store.store(group="task", name="gym", node=TaskConfig("gym", "-").keys() | {"id": ""})
    several = asdict(TaskConfig("multi", names=("walker-stand", "walker-walk")))
    store.store(group="task", name="multi", node=several | {"names": [], "action_repeat": None})
    for name, variation in PRESETS.items():
        store.store(group="randomise", name=name, node=asdict(variation))
    for name, token in TOKEN_PRESETS.items():
        store.store(group="token", name=name, package="model.token", node=asdict(token))
    for name in PEERS:
        store.store(group="peer", name=name, node={f.name: f.default for f in fields(PeerConfig)} | {"name": name})


# Each of the following returns a command's keys, its run folder, and the config groups in its defaults list.


def _train() -> tuple:
    keys = asdict(TrainConfig())
    del keys["task"], keys["randomise"], keys["model"]["token"]
    folder = "runs/${semagram.label:${task.name},${task.id},${task.names}}/${now:%Y-%m-%d_%H-%M-%S}-seed${seed}"
    return keys, folder, {"task": DEFAULT_TASK}, {"randomise": "off"}, {"token": "step"}


def _evaluate() -> tuple:
    keys = asdict(EvaluateConfig())
    del keys["randomise"]
    return keys, "runs/evaluations/${now:%Y-%m-%d_%H-%M-%S}-${semagram.process:}", {"randomise": "off"}


def _tokens() -> tuple:
    keys = asdict(TokensConfig(verb="demo", out="-")) | {"verb": "", "out": ""}
    return keys, "runs/tokens/${now:%Y-%m-%d_%H-%M-%S}-${semagram.process:}-${verb}"


def _twin() -> tuple:
    return asdict(TwinConfig(port_file="-")) | {"port_file": ""}, "."


def _record() -> tuple:
    keys = asdict(RecordConfig(dataset="-")) | {"dataset": ""}
    keys["job"] = keys.pop("task")
    return keys | {"robot_cameras": _open()}, "."


def _run() -> tuple:
    return asdict(RunConfig(checkpoint="-")) | {"checkpoint": "", "robot_cameras": _open()}, "."


def _play() -> tuple:
    return asdict(PlayConfig(sentence="-")) | {"sentence": ""}, "."


def _serve() -> tuple:
    return asdict(ServeConfig(checkpoint="-")) | {"checkpoint": ""}, "."


def _bench() -> tuple:
    keys = asdict(BenchConfig())
    del keys["peer"], keys["model"]["token"]
    return keys, "${out}", {"peer": "none"}, {"token": "step"}


def composed(name: str, arguments: list[str]) -> dict:
    """Return the resolved config of the command `name` with these arguments. Raises HydraException."""
    from hydra import compose, initialize
    from hydra.core.global_hydra import GlobalHydra

    register()
    within = GlobalHydra.instance().is_initialized()  # called from within another command
    with nullcontext() if within else initialize(version_base="1.3", config_path=None):
        return plain(compose(name, arguments))


def plain(config: DictConfig, resolve: bool = True) -> dict:
    """Return a config as plain data; `resolve`: with the values that its interpolations refer to."""
    keys = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(keys, dict)
    return keys


QUIET = [{"override hydra/job_logging": "disabled"}, {"override hydra/hydra_logging": "disabled"}]


def _open() -> DictConfig:
    """Return an empty group that accepts any key: LeRobot defines which are valid."""
    return OmegaConf.create({}, flags={"struct": False})


def _hydra(folder: str) -> dict:
    told = {"note_missing": {"_target_": "configs.empty_folders.NoteMissing"}}
    return {"hydra": {"run": {"dir": folder}, "output_subdir": None, "callbacks": told}}
