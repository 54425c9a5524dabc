"""What LeRobot does to a Semagram policy's observations and actions before and after it."""

from typing import Any

from lerobot.processor import PolicyAction, PolicyProcessorPipeline, make_default_pre_post_processors
from torch import Tensor

from robot.configuration_semagram import SemagramConfig


def make_semagram_pre_post_processors(
    config: SemagramConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """LeRobot's own: actions between the least and the greatest of the dataset become [-1, 1], and back.

    The state stays as it is: the world model normalises it itself.
    """
    config.validate_features()
    return make_default_pre_post_processors(config, dataset_stats)
