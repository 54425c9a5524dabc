"""Hydra's defaults, made from the dataclasses of `configs.schema`, so that each stands once."""

from contextlib import nullcontext
from dataclasses import asdict, fields
from functools import cache

from omegaconf import DictConfig, OmegaConf

from configs.schema import DEFAULT_TASK, PEERS, BenchConfig, EvaluateConfig, PeerConfig, TokensConfig, TrainConfig
from envs.settings import NAMES, TaskConfig
from robot.recording.settings import RecordConfig
from robot.running.settings import RunConfig, ServeConfig
from sim.twin_settings import TwinConfig
from sim.variation import PRESETS
from worldmodel.settings import EYES


@cache
def register() -> None:
    """Give Hydra the defaults, and every task by its name."""
    from hydra.core.config_store import ConfigStore  # noqa: PLC0415

    store = ConfigStore.instance()
    for name in NAMES:
        store.store(group="task", name=name, node=TaskConfig(name).keys())
    store.store(group="task", name="gym", node=TaskConfig("gym", "-").keys() | {"id": ""})
    several = asdict(TaskConfig("multi", names=("walker-stand", "walker-walk")))
    store.store(group="task", name="multi", node=several | {"names": [], "action_repeat": None})
    for name, variation in PRESETS.items():
        store.store(group="randomise", name=name, node=asdict(variation))
    for name, vision in EYES.items():
        store.store(group="vision", name=name, package="model.vision", node=asdict(vision))
    train = asdict(TrainConfig())
    del train["task"], train["randomise"], train["model"]["vision"]
    evaluate = asdict(EvaluateConfig())
    del evaluate["randomise"]
    folder = "runs/${semagram.label:${task.name},${task.id},${task.names}}/${now:%Y-%m-%d_%H-%M-%S}-seed${seed}"
    store.store(
        name="train",
        node={
            "defaults": [{"task": DEFAULT_TASK}, {"randomise": "off"}, {"vision": "small"}, *QUIET, "_self_"],
            **train,
            **_hydra(folder),
        },
    )
    store.store(
        name="evaluate",
        node={
            "defaults": [{"randomise": "off"}, *QUIET, "_self_"],
            **evaluate,
            **_hydra("runs/evaluations/${now:%Y-%m-%d_%H-%M-%S}"),
        },
    )
    store.store(
        name="tokens",
        node={
            "defaults": [*QUIET, "_self_"],
            **asdict(TokensConfig(verb="demo", out="-")),
            "verb": "",
            "out": "",
            **_hydra("runs/tokens/${now:%Y-%m-%d_%H-%M-%S}-${verb}"),
        },
    )
    twin = asdict(TwinConfig(port_file="-")) | {"port_file": ""}
    store.store(name="twin", node={"defaults": [*QUIET, "_self_"], **twin, **_hydra(".")})
    record = asdict(RecordConfig(dataset="-")) | {"dataset": ""}
    record["job"] = record.pop("task")
    record["robot_cameras"] = _open()
    store.store(name="record", node={"defaults": [*QUIET, "_self_"], **record, **_hydra(".")})
    run = asdict(RunConfig(checkpoint="-")) | {"checkpoint": "", "robot_cameras": _open()}
    store.store(name="run", node={"defaults": [*QUIET, "_self_"], **run, **_hydra(".")})
    serve = asdict(ServeConfig(checkpoint="-", secret="-")) | {"checkpoint": "", "secret": ""}
    store.store(name="serve", node={"defaults": [*QUIET, "_self_"], **serve, **_hydra(".")})
    for name in PEERS:
        store.store(group="peer", name=name, node={f.name: f.default for f in fields(PeerConfig)} | {"name": name})
    bench = asdict(BenchConfig())
    del bench["peer"]
    store.store(
        name="bench",
        node={"defaults": [{"peer": "none"}, *QUIET, "_self_"], **bench, **_hydra("${out}")},
    )


def composed(name: str, arguments: list[str]) -> dict:
    """The keys and values that a command gets with these arguments. Raises HydraException."""
    from hydra import compose, initialize  # noqa: PLC0415
    from hydra.core.global_hydra import GlobalHydra  # noqa: PLC0415

    register()
    within = GlobalHydra.instance().is_initialized()  # in another command
    with nullcontext() if within else initialize(version_base="1.3", config_path=None):
        return OmegaConf.to_container(compose(name, arguments), resolve=True)


QUIET = [{"override hydra/job_logging": "disabled"}, {"override hydra/hydra_logging": "disabled"}]


def _open() -> DictConfig:
    """A group that takes any keys: LeRobot knows which there are."""
    return OmegaConf.create({}, flags={"struct": False})


def _hydra(folder: str) -> dict:
    return {"hydra": {"run": {"dir": folder}, "output_subdir": None}}
