"""Benchmark suites by name: tasks, seeds and environment steps."""

from dataclasses import dataclass

EIGHT = (
    "cartpole-swingup",
    "reacher-easy",
    "finger-spin",
    "cup-catch",
    "cheetah-run",
    "walker-walk",
    "walker-run",
    "hopper-stand",
)


@dataclass(frozen=True)
class Suite:
    """A benchmark: every task with the seeds 1..`seeds`, for `steps` environment steps each."""

    tasks: tuple[str, ...]
    seeds: int
    steps: int


SUITES = {
    "dmc-quick": Suite(("cartpole-swingup", "cheetah-run", "walker-walk"), seeds=1, steps=20_000),
    "dmc-100k": Suite(EIGHT, seeds=3, steps=100_000),
    "dmc-ablation": Suite(("reacher-easy", "cheetah-run", "walker-walk"), seeds=3, steps=50_000),
}
