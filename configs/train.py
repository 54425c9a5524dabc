"""semagram-train: train a world model on a task. Leaves a run folder with a plot, a video and checkpoints."""

from pathlib import Path

from configs.command import run


def main() -> None:
    """Run the command."""
    run("train", train)


def train(keys: dict, folder: Path) -> dict:
    """Train with the settings `keys` and write everything to `folder`, or to the run folder that `resume` names.

    Returns the summary. Raises ValueError, OSError.
    """
    from dataclasses import asdict

    from configs.arguments import check_eyes, given, moved
    from configs.schema import TrainConfig
    from configs.strict import ConfigError, build

    about, resume = given(), keys["resume"]
    if resume == "auto":
        from configs.auto_resume import found

        summary, keys, about = found(keys, folder)
        if summary is not None:
            return summary
    elif resume and moved():
        raise ConfigError(f"hydra.run.dir=: not with resume={resume}, which goes on in its own folder")
    if not keys["resume"] or not isinstance(resume, str):  # a resumed run takes its task and more from its checkpoint
        config = build(TrainConfig, keys)
        check_eyes(config, about)  # report mistakes before the slow import of PyTorch
        keys = asdict(config)
    from configs.runs.training import Training

    return Training.begin(keys, folder, about).run()


if __name__ == "__main__":
    main()
