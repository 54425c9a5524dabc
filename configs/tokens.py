"""semagram-tokens: fit a codec to a dataset, and draw what its ids mean."""

import sys
from pathlib import Path

from configs.importing import importing

HELP = """\
semagram-tokens: chunks of a robot's actions as short strings of ids, for planners and for language models.

  semagram-tokens demo out=runs/arm                  80 demonstrations of the simulated arm's script, as a dataset
  semagram-tokens fit dataset=runs/arm               fit a codec to the actions of a LeRobotDataset
  semagram-tokens draw dataset=runs/arm              draw a chunk that was held out after 1, 2, 4, ... of its ids, and
                                                     the beginning of such an episode as a glyph
  semagram-tokens draw sentence=<run>/plan.json      draw a sentence of tokens as a glyph

Use the codec: from policies.codec import Codec; codec = Codec.load(folder); ids = codec.encode(chunk, start)

Keys, with their defaults:

  dataset=""               a LeRobotDataset folder (version 3) on this disk; its actions should be position targets
  sentence=""              draw: a JSON file, a list of tokens: move, grip, look, ask, stop with their parameters
  seconds=1.0              how long a chunk is, at the dataset's rate
  ids=8 bits=12            ids of a chunk, and bits of an id (12: a vocabulary of 4096)
  knots=0 degree=3         control points of a chunk's curve (0: one for five steps), and its degree
  margin=1.3               decoded actions stay within so many times the half range of the data
  relative=true            a curve begins where the arm is, so that chunks join; false: ids alone say where
  events=true              encode channels that switch as events: when, and to what
  held_out=0.3 seed=0      draw: the share of episodes not fitted to, and which; demo: which demonstrations
  episodes=80              demo: how many demonstrations
  out=""                   fit: the codec's folder (default <run folder>/codec); demo: the dataset's
  hydra.run.dir=...        where to put the run folder (default runs/tokens/<time>-<process>-<verb>)

fit leaves the codec; draw chunk.png, glyph.svg and glyph.png.
Progress goes to stderr; the last line of stdout is one JSON object.
"""


@importing()
def main() -> None:
    """Run the command; its first argument is the verb."""
    from configs.command import run

    if len(sys.argv) > 1 and "=" not in sys.argv[1] and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"verb={sys.argv[1]}"
    run("tokens", HELP, tokens)


def tokens(keys: dict, folder: Path) -> dict:
    """Run the chosen verb. Returns its result. Raises ValueError, OSError."""
    from configs.schema import TokensConfig
    from configs.strict import build

    config = build(TokensConfig, keys)
    from configs.codec.codecs import VERBS

    return VERBS[config.verb](config, folder)


if __name__ == "__main__":
    main()
