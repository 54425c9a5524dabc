"""semagram-run: run a trained checkpoint on an arm, simulated or real."""

import signal

from configs.command import run as command


def main() -> None:
    """Run the command; exit with 1 after a fault, with 128 + its number after a signal."""
    command("run", run, _code)


def _code(result: dict) -> int:
    ended = result["ended"]
    return {"done": 0, "fault": 1}[ended] if ended in ("done", "fault") else 128 + signal.Signals[ended]


def run(keys: dict, _folder) -> dict:
    """Run the checkpoint with the settings `keys`. Returns what happened. Raises ValueError, OSError."""
    from configs.preflight import check_there
    from configs.strict import build
    from robot.settings import RunConfig

    config = build(RunConfig, keys)  # report mistakes before the slow import of PyTorch
    check_there(config)
    from configs.arm.running import RunSession

    return RunSession.begin(config).run()


if __name__ == "__main__":
    main()
