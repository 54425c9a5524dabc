"""The edge to Gymnasium: what B environments return becomes an `Observation`."""

from collections.abc import Mapping

import numpy as np
import torch

from policies.text_encoder import WORDS
from worldmodel.observation import Observation
from worldmodel.senses import LANGUAGE_KEY, Shapes, is_image, name


def observe(returned: Mapping[str, np.ndarray | tuple[str, ...]], senses: Shapes) -> Observation:
    """Copy what a vector of B environments returned: arrays (B, ...) and, for language, B sentences, by key.

    A mask `mask.<sense>` (B, 1) says where a sense is there. Raises ValueError as `Observation.of` and `WORDS` do.
    """
    present = {
        key: torch.from_numpy(np.array(returned[mask], dtype=bool))
        for key in senses
        if (mask := f"mask.{name(key)}") in returned
    }
    values = {}
    for key in senses.keys() & returned.keys():
        value = returned[key]
        if key == LANGUAGE_KEY:
            values[key] = WORDS.vectors(tuple(value), present[key].flatten().numpy() if key in present else None)
        else:
            values[key] = torch.from_numpy(np.array(value, dtype=np.uint8 if is_image(key) else np.float32))
    return Observation.of(senses, values, present)
