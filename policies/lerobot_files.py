"""What makes a checkpoint a LeRobot policy folder: the keys of config.json and the two files beside it.

Plain data, without LeRobot, which takes seconds to import. An action is in [-1, 1] in Semagram's own environments, so
nothing is normalised on the way in or out; the steps are there since LeRobot's commands change them by their names.
"""

import json

FEATURES = {"STATE": "IDENTITY", "ACTION": "IDENTITY"}


def settings(state_size: int, action_size: int) -> dict:
    """LeRobot's keys of a checkpoint's config.json."""
    return {
        "input_features": _state(state_size),
        "output_features": _action(action_size),
        "normalization_mapping": FEATURES,
        "planned": True,
    }


def processors(state_size: int, action_size: int) -> dict[str, bytes]:
    """policy_preprocessor.json and policy_postprocessor.json."""
    rest = {"eps": 1e-8, "norm_map": FEATURES}
    features = _state(state_size) | _action(action_size)
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


def _state(size: int) -> dict:
    return {"observation.state": {"type": "STATE", "shape": [size]}}


def _action(size: int) -> dict:
    return {"action": {"type": "ACTION", "shape": [size]}}


def _step(name: str, **config) -> dict:
    return {"registry_name": name, "config": config}
