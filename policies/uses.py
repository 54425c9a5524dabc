"""What the uses of tools brought, by the situation that each was used in: kept beside a checkpoint."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from policies.guidance.storage import sum_of_model
from policies.storage.folders import FolderError, replace_file
from worldmodel.errors import in_one_line

FILE = "tools.json"
MOST = 200
HOPED, PRIOR = 1.0, 0.1
"""The gain hoped for of a tool where it was never used, and how many uses there that counts as."""
NEAR = 0.2
"""Distance of two situations, in shares of the sum of their norms, at which one counts exp(-1/2) for the other."""


class Uses:
    """What tools brought: of each use, by the tool's name, [the situation (D,) that it was used in, the gain].

    A gain is the share of a good episode's missing reward that came then. What is added counts for the next to read it.
    """

    def __init__(self, known: Mapping[str, Sequence[Sequence[Any]]] | None = None, place: Path | None = None):
        """Know these uses. `place`: the checkpoint with which each that is added is kept at once."""
        self._known = {
            name: (np.array([each for each, _ in uses]), np.array([gain for _, gain in uses]))
            for name, uses in (known or {}).items()
            if uses
        }
        self.all = {name: [*uses] for name, uses in (known or {}).items()}
        self._place = place

    def gain(self, name: str, situation: Float[np.ndarray, " D"]) -> float:
        """Return the gain to be expected of a tool: as in like situations, and as hoped where there were none."""
        if name not in self._known:
            return HOPED
        before, gains = self._known[name]
        most = np.linalg.norm(before, axis=1) + np.linalg.norm(situation)
        apart = np.linalg.norm(before - situation, axis=1) / np.where(most, most, 1.0)
        weights = np.exp(-np.square(apart / NEAR) / 2)
        return float((weights @ gains + PRIOR * HOPED) / (weights.sum() + PRIOR))

    def add(self, name: str, situation: Float[np.ndarray, " D"], gain: float) -> None:
        """Note a use; of each tool the newest MOST are remembered."""
        noted = [[round(float(x), 4) for x in situation], round(gain, 4)]
        self.all[name] = [*self.all.get(name, ()), noted][-MOST:]
        if self._place is not None:
            self.keep(self._place)

    def keep(self, checkpoint: Path) -> None:
        """Keep them in a checkpoint's folder, in a file that appears at once."""
        replace_file(checkpoint / FILE, json.dumps({"checkpoint": sum_of_model(checkpoint), "uses": self.all}).encode())

    @classmethod
    def kept(cls, checkpoint: Path, live: bool = False) -> "Uses":
        """Return those kept in a checkpoint's folder, none without any. `live`: keep there what is added.

        Raises FolderError, one line, if the file is not of uses, or of those of another checkpoint.
        """
        path, place = checkpoint / FILE, checkpoint if live else None
        if not path.exists():
            return cls({}, place)
        try:
            found = json.loads(path.read_bytes())
            uses = cls(found["uses"], place)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FolderError(f"{path}: not uses: {in_one_line(error)}; without it tools are tried anew") from error
        if found["checkpoint"] != sum_of_model(checkpoint):
            raise FolderError(f"{path}: of another checkpoint; without it tools are tried anew")
        return uses
