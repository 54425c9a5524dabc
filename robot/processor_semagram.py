"""LeRobot's pre- and post-processing of a Semagram policy's observations and actions."""

from typing import Any

from lerobot.processor import PolicyAction, PolicyProcessorPipeline, make_default_pre_post_processors
from torch import Tensor

from robot.configuration_semagram import SemagramConfig


def make_semagram_pre_post_processors(
    config: SemagramConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """Return LeRobot's default processors, which scale actions to [-1, 1] and back; the model normalises the state."""
    config.validate_features()
    return make_default_pre_post_processors(config, dataset_stats)
