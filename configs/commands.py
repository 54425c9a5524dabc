"""The commands: each checks its keys, then imports what does the work (PyTorch takes seconds).

`python -m configs.commands train steps=1000` is `semagram-train steps=1000`.
"""

import signal
import sys
from pathlib import Path

from configs.command import run as command


def train() -> None:
    """semagram-train: train a world model. Leaves a run folder with a plot, a video and checkpoints."""
    command("train", _train)


def _train(keys: dict, folder: Path) -> dict:
    from configs.arguments import given, moved
    from configs.train import begin, in_own_folder
    from worldmodel.strict import ConfigError

    if in_own_folder(keys["resume"]) and moved():
        raise ConfigError(f"hydra.run.dir=: not with resume={keys['resume']}, which goes on in its own folder")
    return begin(keys, folder, given())


def evaluate() -> None:
    """semagram-eval: evaluate a checkpoint with its planner and without, and measure what a decision costs."""
    command("evaluate", _evaluate)


def _evaluate(keys: dict, folder: Path) -> dict:
    from configs.schema import EvaluateConfig

    config = _checked(EvaluateConfig, keys)
    from configs.runs.evaluation import Evaluation

    return Evaluation.begin(config).run(folder)


def bench() -> None:
    """semagram-bench: a sweep of semagram-train over the tasks and seeds of a suite, and its report."""
    command("bench", _bench, lambda result: 1 if result.get("failed") else 0)


def _bench(keys: dict, folder: Path) -> dict:
    from configs.bench import bench
    from configs.schema import BenchConfig

    return bench(_checked(BenchConfig, keys), folder)


def tokens() -> None:
    """semagram-tokens: fit a codec to a dataset, and draw what its ids mean. The first argument is the verb."""
    if len(sys.argv) > 1 and "=" not in sys.argv[1] and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"verb={sys.argv[1]}"
    command("tokens", _tokens)


def _tokens(keys: dict, folder: Path) -> dict:
    from configs.schema import TokensConfig

    config = _checked(TokensConfig, keys)
    from configs.codec.codecs import VERBS

    return VERBS[config.verb](config, folder)


def record() -> None:
    """semagram-record: record episodes of an arm as a LeRobotDataset; a finished one is safe on disk."""
    command("record", _record)


def _record(keys: dict, _folder: Path) -> dict:
    from robot.settings import RecordConfig

    config = _checked(RecordConfig, keys)
    from configs.arm.recording import RecordSession

    return RecordSession(config).run()


def run() -> None:
    """semagram-run: run a checkpoint on an arm; exit with 1 after a fault, with 128 + its number after a signal."""
    command("run", _run, _code)


def _run(keys: dict, _folder: Path) -> dict:
    from robot.settings import RunConfig

    config = _checked(RunConfig, keys)
    from configs.arm.running import RunSession

    return RunSession.begin(config).run()


def _code(result: dict) -> int:
    ended = result["ended"]
    return {"done": 0, "fault": 1}[ended] if ended in ("done", "fault") else 128 + signal.Signals[ended]


def play() -> None:
    """semagram-play: play a plan of tokens on an arm, simulated or real."""
    command("play", _play)


def _play(keys: dict, _folder: Path) -> dict:
    from robot.settings import PlayConfig

    config = _checked(PlayConfig, keys)
    from configs.arm.playing import PlaySession

    return PlaySession.begin(config).run()


def serve() -> None:
    """semagram-serve: plan on this machine for a robot that another machine drives, until stopped by a signal."""
    command("serve", _serve)


def _serve(keys: dict, _folder: Path) -> dict:
    from robot.safety.stops import handled
    from robot.settings import ServeConfig, planner_address

    config = _checked(ServeConfig, keys)
    from configs.arm.planning import planner_service
    from configs.reporting import say
    from policies.planner_link.service import listening

    own = config.seed, config.device, config.threads, config.planner
    with listening(planner_address(config.address, "address")) as listener:
        service = planner_service(Path(config.checkpoint), *own, say)
        name = listener.getsockname()
        with handled(lambda *_: service.close()):
            say(f"planning for {service.settings.task} at {name if isinstance(name, str) else f'localhost:{name[1]}'}")
            service.serve(listener)
    return {"decisions": service.agent.totals.decisions, "refused": service.refused}


def twin() -> None:
    """semagram-twin: a simulated SO-101 on a serial port of its own, for LeRobot's real driver."""
    command("twin", _twin)


def _twin(keys: dict, _folder: Path) -> dict:
    import gc

    from configs.reporting import say
    from policies.storage.folders import replace_file
    from robot.ticks import hurry
    from sim import InvalidValue
    from sim.twin import calibration as calibrations
    from sim.twin.arm import TwinArm, build, limits
    from sim.twin.control import control_of, discard
    from sim.twin.twin import Twin, TwinConfig
    from worldmodel.strict import ConfigError

    config = _checked(TwinConfig, keys)
    port_file, calibration_file = Path(config.port_file), config.calibration_path

    def announce(name: str) -> None:  # atomically: no name, no port
        if name:
            replace_file(port_file, f"{name}\n".encode())
        else:
            port_file.unlink(missing_ok=True)
        say(f"port: {name} ({port_file})" if name else "port: unplugged")

    try:
        model = build(config.scene)
        known = calibration_file.exists()
        calibration = calibrations.read(calibration_file) if known else calibrations.fitting(limits(model))
    except InvalidValue as error:
        raise ConfigError(str(error)) from error
    port_file.parent.mkdir(parents=True, exist_ok=True)
    discard(control_of(port_file))  # a stale channel here would make this twin, if its own is elsewhere, look dead
    with Twin(TwinArm(model, calibration), config.faults, config.control_path, announce) as server:
        if not known:
            replace_file(calibration_file, calibrations.text(calibration).encode())
        gc.collect()
        gc.freeze()  # never collect what exists now, to avoid long pauses later
        say(f"calibration: {calibration_file}; scheduling: {hurry()}")
        return {"calibration_file": str(calibration_file), **server.run()}


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
    names = {each.__name__: each for each in (train, evaluate, bench, tokens, record, run, play, serve, twin)}
    names["eval"] = evaluate  # as in semagram-eval
    if sys.argv[1:2] == [] or sys.argv[1] not in names:
        sys.exit(f"python -m configs.commands <name> ...: one of {', '.join(names)}")
    names[sys.argv.pop(1)]()
