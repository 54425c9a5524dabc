"""What a glyph costs: processor time of a plan's geometry and of its picture, with 1 to 21 dimensions of the action.

A plan is five single actions, as the default agent's; a picture has 240 x 240 pixels, as beside a film.
"""

import json
import time

import numpy as np

from policies.glyphs.glyph import glyph
from policies.glyphs.ink import picture
from policies.tokens.vocabulary import Move

ROUNDS, TOKENS, SIZE = 40, 5, 240


def plan(lanes: int, rng: np.random.Generator) -> tuple[Move, ...]:
    """Random actions (1, lanes), each for 0.02 s."""
    shape = (TOKENS, 1, lanes)
    values, spread = rng.uniform(-1, 1, shape), rng.uniform(0.05, 0.5, shape)
    return tuple(Move(v, 0.02, 0, s) for v, s in zip(values, spread, strict=True))


def main() -> None:
    """Print a line of JSON for each number of dimensions."""
    rng = np.random.default_rng(0)
    for lanes in (1, 2, 6, 12, 21):
        shapes, spent = glyph(plan(lanes, rng)), []
        picture(shapes, SIZE)  # imports matplotlib
        for _ in range(ROUNDS):
            sentence = plan(lanes, rng)
            began = time.process_time()
            shapes = glyph(sentence)
            middle = time.process_time()
            picture(shapes, SIZE, paper="white")
            spent.append((middle - began, time.process_time() - middle))
        geometry, ink = 1000 * np.median(spent, axis=0)
        row = {"geometry_ms": geometry, "picture_ms": ink, "frame_ms": geometry + ink}
        print(json.dumps({"lanes": lanes} | {name: round(float(value), 2) for name, value in row.items()}))


if __name__ == "__main__":
    main()
