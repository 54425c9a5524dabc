"""semagram-eval: evaluate a checkpoint with its planner and without, and measure what a decision costs."""

from pathlib import Path

from configs.command import run


def main() -> None:
    """Run the command."""
    run("evaluate", evaluate)


def evaluate(keys: dict, folder: Path) -> dict:
    """Evaluate with the settings `keys` and write everything to `folder`. Returns the summary.

    Raises ValueError, OSError.
    """
    from configs.preflight import check_there
    from configs.schema import EvaluateConfig
    from configs.strict import build

    config = build(EvaluateConfig, keys)  # report mistakes before the slow import of PyTorch
    check_there(config)
    from configs.runs.evaluation import Evaluation

    return Evaluation.begin(config).run(folder)


if __name__ == "__main__":
    main()
