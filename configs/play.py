"""semagram-play: play a sentence of tokens on an arm, simulated or real."""

from configs.command import run


def main() -> None:
    """Run the command."""
    run("play", play)


def play(keys: dict, _folder) -> dict:
    """Play the sentence on the arm. Returns what happened. Raises ValueError, OSError, Ended."""
    from configs.preflight import check_there
    from configs.strict import build
    from robot.settings import PlayConfig

    config = build(PlayConfig, keys)  # report mistakes before the slow import of PyTorch
    check_there(config)
    from configs.arm.playing import PlaySession

    return PlaySession.begin(config).run()


if __name__ == "__main__":
    main()
