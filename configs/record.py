"""semagram-record: record episodes of an arm as a LeRobotDataset; each is safe on disk as soon as it is finished."""

import sys

from configs.command import run


def main() -> None:
    """Run the command."""
    # Hydra would take `task` for the config group of that name; here it is a plain key.
    sys.argv = [f"job{word[4:]}" if word.startswith("task=") else word for word in sys.argv]
    run("record", record)


def record(keys: dict, _folder) -> dict:
    """Record with the settings `keys`. Returns the summary. Raises ValueError, OSError."""
    from configs.preflight import check_there
    from configs.strict import build
    from robot.settings import RecordConfig

    keys["task"] = keys.pop("job")
    config = build(RecordConfig, keys)  # report mistakes before the slow import of LeRobot
    check_there(config)
    from configs.arm.recording import RecordSession

    return RecordSession(config).run()


if __name__ == "__main__":
    main()
