"""The pictures that a training run leaves: its learning curve and, if asked for, a film."""

from collections.abc import Callable

from configs.reporting import say
from configs.runs.parts import Parts
from configs.runs.report import Report
from configs.runs.run_folder import RunFolder
from envs.make import make


def draw(parts: Parts, folder: RunFolder, report: Report, heed: Callable[[], None]) -> None:
    """Write the plot and, if asked for, the video; `heed` is called before it, and before each of its frames."""
    from envs.benchmark.figures import learning_curve, save
    from envs.benchmark.results import read_curve

    config = parts.config
    save(folder.path / "curve.png", learning_curve(read_curve(folder.metrics), config.task.label))
    if config.video:
        from configs.runs.film import film
        from policies.nearest_frames import NearestFrames

        heed()
        agent, replay = parts.evaluator(True, 0), parts.trainer.replay
        env = make(config.task, render=True, variation=config.randomise, senses=config.perceived)
        memories = NearestFrames.of(replay, agent.model) if config.perceived.cameras else None
        film(folder.path / "rollout.mp4", env, config.task, agent, say, memories=memories, tick=heed, report=report)
