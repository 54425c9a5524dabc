"""How a servo moves its setpoint to its goal: the twin's, and those of the simulated arm.

The STS3215's register Acceleration counts 100 steps/s^2 and holds for speeding up and braking alike; 0 is no limit
(Feetech's memory table). LeRobot sets 254, 39 rad/s^2. A goal may change on the way, as it does at each control step:
the servo goes on at the speed that it has. That, and that it brakes as late as it can, is plausible, not measured.
"""

import math
from collections.abc import Sequence

STEPS = 4096  # per turn of the encoder
FASTEST = 3400  # steps/s without load
UNIT = 100  # steps/s^2 per unit of Acceleration
ACCELERATION, HIGHEST = 254, 254  # of the register: as LeRobot sets it, and the highest


def radians(steps: float) -> float:
    """Convert steps of the encoder, also per second, to rad."""
    return steps * 2 * math.pi / STEPS


def ramp(away: float, speed: float, fastest: float, rate: float, times: Sequence[float]) -> tuple[list[float], float]:
    """Return how far a setpoint at `speed` has moved to a goal `away` after each of the `times`, and its last speed.

    In the shortest time in which it arrives at rest without more than `fastest` or the acceleration `rate`, if not 0;
    in any unit of angle, and seconds. `times` are in order.
    """
    if not rate:
        moves = [math.copysign(min(abs(away), fastest * time), away) for time in times]
        return moves, 0.0 if moves[-1] == away else math.copysign(fastest, away)
    if not away and not speed:
        return [0.0] * len(times), 0.0
    back = away < speed * abs(speed) / (2 * rate)  # where it can stop lies beyond the goal
    brakes = rate if back else -rate
    peak = math.sqrt(max(0.0, speed * speed / 2 - brakes * away))
    peak = math.copysign(peak if peak < fastest else fastest, -brakes)
    changes = -brakes if (peak - speed) * brakes <= 0 else brakes  # faster than `fastest`, it brakes first
    reached = (peak - speed) / changes
    brake_s = -peak / brakes
    begins = reached + (away - (speed + peak) / 2 * reached) / peak - brake_s / 2 if peak else reached
    moves = []
    for time in times:
        if time < reached:
            now = speed + changes * time
            moves.append((speed + now) / 2 * time)
        elif time < begins:
            now = peak
            moves.append(away - peak * (begins - time + brake_s / 2))
        elif time < begins + brake_s:
            left = begins + brake_s - time
            now = -brakes * left
            moves.append(away - now * left / 2)
        else:
            now = 0.0
            moves.append(away)
    return moves, now
