"""semagram-data: what is in a LeRobotDataset; marks of its episodes; a copy of what a killed recording left."""

from pathlib import Path

from configs.reporting import say
from robot.checking import check
from robot.datasets import info_of
from robot.recording import mark, picture
from robot.repair import repair
from robot.settings import DataConfig
from worldmodel.senses import STATE_KEY


def data(config: DataConfig, _folder: Path) -> dict:
    """Do as `config` says, and return what was found. Raises DatasetError, OSError."""
    if config.repair:
        result = repair(Path(config.repair), Path(config.out))
        for number, why in result["dropped"].items():
            say(f"episode {number} is not complete: {why}")
        return result
    dataset = Path(config.check)
    if config.mark:
        marks = (each.split(":") for each in config.mark)
        mark(dataset, {int(number): name == "good" for number, name in marks})
    result, drawn = check(dataset), dataset.with_name(f"{dataset.name}.png")
    for number, each in result["wrong"].items():
        say(f"episode {number}: {'; '.join(each)}")
    rate = "" if result["success_rate"] is None else f", {result['success_rate']:.0%} succeeded"
    shape = info_of(dataset)["features"].get(STATE_KEY, {}).get("shape", [1])
    if shape != [1]:  # LeRobot stores a single number as a scalar
        picture(drawn, dataset, f"{dataset.name}: {result['episodes']} episodes{rate}")
    return result | {"picture": str(drawn) if shape != [1] else None}
