"""One episode: read, ask the driver, send through the gate, and record the reading and what was actually sent."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from robot.recording.drivers import Driver
from robot.recording.parts import Draft
from robot.safety.gated import GatedRobot
from robot.ticks import Ticks


@contextmanager
def resting(robot: GatedRobot) -> Iterator[None]:
    """Bring the arm to rest at the end of the block, however it ends, before anything else (e.g. saving) happens."""
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
    """Run an episode until the driver ends it or `seconds` have passed; `draft` records its steps.

    `ticks` use the robot's own clock; a tick whose time has passed is skipped. Returns whether `judge` reported success
    after any step; None if it never could tell.
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
