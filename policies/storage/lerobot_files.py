"""What makes a checkpoint a LeRobot policy folder: the keys of config.json and the two files beside it.

This is plain data, made without importing LeRobot, which takes seconds. Actions are in [-1, 1] in Semagram's own
environments, so nothing is normalised on the way in or out; the normalisation steps exist because LeRobot's commands
override them by name.
"""

import json

from worldmodel.senses import STATE_KEY, Shapes, is_image

FEATURES = {"STATE": "IDENTITY", "VISUAL": "IDENTITY", "ACTION": "IDENTITY"}


def settings(senses: Shapes, action_size: int) -> dict:
    """Return LeRobot's keys of a checkpoint's config.json."""
    return {
        "input_features": _inputs(senses),
        "output_features": _action(action_size),
        "normalization_mapping": FEATURES,
        "planned": True,
    }


def processors(senses: Shapes, action_size: int) -> dict[str, bytes]:
    """Return the contents of policy_preprocessor.json and policy_postprocessor.json, by file name."""
    rest = {"eps": 1e-8, "norm_map": FEATURES}
    features = _inputs(senses) | _action(action_size)
    before = [
        _step("rename_observations_processor", rename_map={}),
        _step("to_batch_processor"),
        _step("device_processor", device="cpu", float_dtype=None),
        _step("normalizer_processor", features=features, **rest),
    ]
    after = [
        _step("unnormalizer_processor", features=_action(action_size), **rest),
        _step("device_processor", device="cpu", float_dtype=None),
    ]
    return {
        f"{name}.json": json.dumps({"name": name, "steps": steps}, indent=2).encode()
        for name, steps in (("policy_preprocessor", before), ("policy_postprocessor", after))
    }


def _inputs(senses: Shapes) -> dict:
    """Return LeRobot's input features: frames channels-first; language is left out, being LeRobot's `task`."""
    frames = {key: {"type": "VISUAL", "shape": [s[2], s[0], s[1]]} for key, s in senses.items() if is_image(key)}
    state = {STATE_KEY: {"type": "STATE", "shape": list(senses[STATE_KEY])}} if STATE_KEY in senses else {}
    return state | frames


def _action(size: int) -> dict:
    return {"action": {"type": "ACTION", "shape": [size]}}


def _step(name: str, **config) -> dict:
    return {"registry_name": name, "config": config}
