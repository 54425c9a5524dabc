"""Makes docs/glyph-legend.png: the glyph of docs/glyph.json with words at its parts. To be run from the root."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from policies.glyphs.glyph import RULER, Lanes, glyph
from policies.glyphs.ink import INK, picture
from policies.tokens.vocabulary import Move, from_plain

DOCS = Path("docs")
SIZE = 1400
GREY = "#77777f"

sentence = from_plain(json.loads((DOCS / "glyph.json").read_text()))
lanes = Lanes.of(next(t.points.shape[1] for t in sentence if isinstance(t, Move)))
# What it says, where the words are, and what they point at: the glyph lies in [-1, 1] x [-1, 1], y down.
NOTES = (
    (
        "begin: a dot for each dimension\nof the action, the first innermost",
        (-0.62, -1.1),
        (-0.01, -lanes.rest[-1] - 0.01),
    ),
    ("look", (0.48, -0.95), (0.36, -0.91)),
    ("pale circle: 0", (1.12, -0.52), (0.66, -0.42)),
    (
        "stroke: one token, one dimension;\noutside its circle +, inside −;\nheavier: larger",
        (1.12, -0.16),
        (0.685, -0.13),
    ),
    ("thread: over a pause", (1.12, 0.17), (0.6, 0.24)),
    ("grip: filled, closed", (1.12, 0.42), (0.89, 0.39)),
    ("ask", (0.2, 0.97), (0.06, 0.93)),
    ("pale ink: one deviation\nto either side", (-1.12, 0.5), (-0.725, 0.25)),
    ("grip: hollow, open;\ninside a motion", (-1.12, 0.0), (-0.97, 0.11)),
    ("a token begins", (-1.12, -0.35), (-0.19, -0.19)),
    ("stop", (-0.62, -0.82), (-0.22, -0.86)),
    ("dots: 0.1 s\nlarge: 1 s", (0, 0.0), (0, -RULER)),
)

figure = plt.figure(figsize=(9.4, 5.5), dpi=130)
axes = figure.add_axes((0, 0, 1, 1))
axes.imshow(picture(glyph(sentence), SIZE), extent=(-1, 1, 1, -1), interpolation="antialiased")
for words, place, target in NOTES:
    side = "left" if place[0] > 0 else "right" if place[0] < 0 else "center"
    near = place[0] == 0
    axes.annotate(
        words,
        target,
        place,
        ha=side,
        va="center",
        fontsize=9,
        color=INK,
        arrowprops=None if near else {"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkB": 2},
    )
axes.set(xlim=(-1.95, 2.15), ylim=(1.1, -1.3))
axes.set_aspect("equal")
axes.axis("off")
figure.canvas.draw()
shades = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("L").quantize(24)
shades.save(DOCS / "glyph-legend.png", optimize=True)
