"""The commands: each checks its keys, then imports what does the work (PyTorch takes seconds).

`python -m configs.commands train steps=1000` is `semagram-train steps=1000`.
"""

import signal
import sys
from functools import partial
from pathlib import Path

from configs.command import Command


@Command
def train(keys: dict, folder: Path) -> dict:
    """semagram-train: train a world model. Leaves a run folder with a plot, a video and checkpoints."""
    from configs.arguments import given, moved
    from configs.train import begin, in_own_folder
    from worldmodel.strict import ConfigError

    if in_own_folder(keys["resume"]) and moved():
        raise ConfigError(f"hydra.run.dir=: not with resume={keys['resume']}, which goes on in its own folder")
    return begin(keys, folder, given())


@Command
def evaluate(keys: dict, folder: Path) -> dict:
    """semagram-eval: evaluate a checkpoint with its planner and without, and measure what a decision costs."""
    from configs.schema import EvaluateConfig

    config = _checked(EvaluateConfig, keys)
    from configs.runs.evaluation import Evaluation

    return Evaluation.begin(config).run(folder)


@partial(Command, code=lambda result: 1 if result.get("failed") else 0)
def bench(keys: dict, folder: Path) -> dict:
    """semagram-bench: a sweep of semagram-train over the tasks and seeds of a suite, and its report."""
    from configs.bench import bench
    from configs.schema import BenchConfig

    return bench(_checked(BenchConfig, keys), folder)


def _named(words: list[str]) -> list[str]:
    """Return the arguments of semagram-tokens, whose first may be the verb alone, with its key before it."""
    alone = words and "=" not in words[0] and not words[0].startswith("-")
    return [f"verb={words[0]}", *words[1:]] if alone else words


@partial(Command, words=_named)
def tokens(keys: dict, folder: Path) -> dict:
    """semagram-tokens: fit a codec to a dataset, and draw what its ids mean. The first argument is the verb."""
    from configs.schema import TokensConfig

    config = _checked(TokensConfig, keys)
    from configs.codec.codecs import VERBS

    return VERBS[config.verb](config, folder)


def _untasked(words: list[str]) -> list[str]:
    """Return the arguments of semagram-record: Hydra would take `task` for the config group of that name."""
    return [f"job{word[4:]}" if word.startswith("task=") else word for word in words]


@partial(Command, words=_untasked)
def record(keys: dict, _folder: Path) -> dict:
    """semagram-record: record episodes of an arm as a LeRobotDataset; a finished one is safe on disk."""
    from robot.settings import RecordConfig

    keys["task"] = keys.pop("job")
    config = _checked(RecordConfig, keys)
    from configs.arm.recording import RecordSession

    return RecordSession(config).run()


def _how(result: dict) -> int:
    ended = result["ended"]
    return {"done": 0, "fault": 1}[ended] if ended in ("done", "fault") else 128 + signal.Signals[ended]


@partial(Command, code=_how)
def run(keys: dict, _folder: Path) -> dict:
    """semagram-run: run a checkpoint on an arm; exit with 1 after a fault, with 128 + its number after a signal."""
    from robot.settings import RunConfig

    config = _checked(RunConfig, keys)
    from configs.arm.running import RunSession

    return RunSession.begin(config).run()


@Command
def play(keys: dict, _folder: Path) -> dict:
    """semagram-play: play a plan of tokens on an arm, simulated or real."""
    from robot.settings import PlayConfig

    config = _checked(PlayConfig, keys)
    from configs.arm.playing import play

    return play(config)


@Command
def serve(keys: dict, _folder: Path) -> dict:
    """semagram-serve: plan on this machine for a robot that another machine drives, until stopped by a signal."""
    from robot.settings import ServeConfig

    config = _checked(ServeConfig, keys)
    from configs.arm.planning import serve

    return serve(config)


@Command
def twin(keys: dict, _folder: Path) -> dict:
    """semagram-twin: a simulated SO-101 on a serial port of its own, for LeRobot's real driver."""
    from sim.twin.twin import TwinConfig

    config = _checked(TwinConfig, keys)
    from configs.arm.twin_process import serve

    return serve(config)


def _checked[T](cls: type[T], keys: dict) -> T:
    """Build a command's config, and check that what it names is there.

    Raises ConfigError, and UserError or ConnectionError if the checkpoint, twin or serial port does not exist.
    """
    from worldmodel.errors import UserError
    from worldmodel.strict import build

    config = build(cls, keys)
    checkpoint = keys.get("checkpoint")
    if isinstance(checkpoint, str) and checkpoint and not Path(checkpoint).is_dir():
        raise UserError(f"checkpoint={checkpoint}: no such folder")
    if "robot" in keys:
        from robot.settings import REAL, port_of_twin

        if keys["port_file"]:
            port_of_twin(Path(keys["port_file"]))
        port = Path(keys["port"] if keys["robot"] == REAL else "")
        if port.is_absolute() and not port.exists():  # on other systems ports are not files
            raise ConnectionError(
                f"port={port}: no such device; is the arm plugged in? lerobot-find-port says which port it has"
            )
    return config


if __name__ == "__main__":
    names = {name: each for name, each in globals().items() if isinstance(each, Command)}
    if sys.argv[1:2] == [] or sys.argv[1] not in names:
        sys.exit(f"python -m configs.commands <name> ...: one of {', '.join(names)}")
    names[sys.argv.pop(1)]()
