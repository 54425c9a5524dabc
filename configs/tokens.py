"""semagram-tokens: fit a codec to a dataset, and draw what its ids mean."""

import sys
from pathlib import Path

from configs.command import run


def main() -> None:
    """Run the command; its first argument is the verb."""
    if len(sys.argv) > 1 and "=" not in sys.argv[1] and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"verb={sys.argv[1]}"
    run("tokens", tokens)


def tokens(keys: dict, folder: Path) -> dict:
    """Run the chosen verb. Returns its result. Raises ValueError, OSError."""
    from configs.schema import TokensConfig
    from configs.strict import build

    config = build(TokensConfig, keys)
    from configs.codec.codecs import VERBS

    return VERBS[config.verb](config, folder)


if __name__ == "__main__":
    main()
