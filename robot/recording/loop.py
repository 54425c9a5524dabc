"""One episode: read, ask the driver, send through the gate, keep what was read and what was really sent."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from robot.gated import GatedRobot
from robot.recording.drivers import Driver
from robot.recording.pace import Pace
from robot.recording.parts import Draft


@contextmanager
def resting(robot: GatedRobot) -> Iterator[None]:
    """Bring the arm to rest at the block's end, however it ends: before anything else is done, as to the data."""
    try:
        yield
    finally:
        robot.rest()


def play(
    robot: GatedRobot,
    driver: Driver,
    pace: Pace,
    seconds: float,
    judge: Callable[[], bool | None],
    draft: Draft | None = None,
    sentence: str = "",
) -> bool | None:
    """Run an episode until the driver ends it or `seconds` have passed; `draft` takes its steps.

    `pace` goes by the robot's own clock.
    Returns whether `judge` called it done after any step; None if it never knew.
    """
    done: bool | None = None
    pace.start()
    for step in range(round(seconds * pace.hz)):
        if step:
            pace.wait()
        at = pace.clock.monotonic()
        observation = robot.get_observation()
        goal = driver.goal(observation)
        if goal is None:
            break
        sent = robot.send_action(goal, at)
        success = judge()
        if success is not None:
            done = bool(done or success)
        if draft is not None:
            draft.add(observation, sent, sentence, at - pace.began, success)
    return done
