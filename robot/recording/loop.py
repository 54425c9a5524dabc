"""One episode: read, ask the driver, send through the gate, keep what was read and what was really sent."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from robot.recording.drivers import Driver
from robot.recording.parts import Draft
from robot.safety.gated import GatedRobot
from robot.ticks import Ticks


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
    ticks: Ticks,
    seconds: float,
    judge: Callable[[], bool | None],
    draft: Draft | None = None,
    sentence: str = "",
) -> bool | None:
    """Run an episode until the driver ends it or `seconds` have passed; `draft` takes its steps.

    `ticks` go by the robot's own clock; a moment for which there was no time is left out.
    Returns whether `judge` called it done after any step; None if it never knew.
    """
    done: bool | None = None
    began: float | None = None
    for _ in ticks.run(round(seconds * ticks.hz)):
        at = ticks.clock.monotonic()
        began = at if began is None else began
        observation = robot.get_observation()
        goal = driver.goal(observation)
        if goal is None:
            break
        sent = robot.send_action(goal, at)
        success = judge()
        if success is not None:
            done = bool(done or success)
        if draft is not None:
            draft.add(observation, sent, sentence, at - began, success)
    return done
