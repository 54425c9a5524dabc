"""One servo: where it says it is, how it follows a goal, and how it protects itself."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from sim.twin.servo import OVERHEATED, OVERLOADED, STEPS, Servo

DT_S = 0.005
TORQUE, MIDDLE = 40, bytes([128])


def powered(shaft: float = 2048.0, **registers: int) -> Servo:
    servo = Servo(1, shaft)
    servo.write(TORQUE, b"\x01")
    for name, value in registers.items():
        servo[name] = value
    return servo


def follow(servo: Servo, seconds: float) -> list[float]:
    """The setpoints of a shaft that follows them at once."""
    places = []
    for _ in range(round(seconds / DT_S)):
        drive = servo.drive(DT_S)
        servo.sense(drive.target, servo.speed, 0.0, DT_S)
        places.append(drive.target)
    return places


@given(st.floats(-9000, 9000), st.integers(-2047, 2047))
def test_present_position_is_the_shaft_less_the_offset_within_one_turn(shaft, offset):
    servo = Servo(1, shaft)
    servo["Homing_Offset"] = offset
    servo.sense(shaft, 0.0, 0.0, 0.0)
    assert 0 <= servo["Present_Position"] < STEPS
    turns = (servo["Present_Position"] + offset - shaft) / STEPS
    assert abs(turns - round(turns)) <= 0.5001 / STEPS


@settings(max_examples=40)
@given(
    goal=st.integers(0, STEPS - 1),
    velocity=st.integers(0, 3000),
    acceleration=st.integers(0, 254),
    offset=st.integers(-2047, 2047),
)
def test_the_setpoint_keeps_its_speed_and_acceleration_and_arrives_in_the_limits(goal, velocity, acceleration, offset):
    servo = powered(2048.0 + offset, Homing_Offset=offset, Min_Position_Limit=300, Max_Position_Limit=3800)
    servo["Goal_Position"], servo["Goal_Velocity"], servo["Acceleration"] = goal, velocity, acceleration
    fastest, rate = velocity or 3400, 100 * acceleration or math.inf
    clipped = min(3800, max(300, goal))
    away = abs(clipped - 2048)
    seconds = away / fastest + 3 * min(fastest / rate, math.sqrt(away / rate)) + 0.2
    places = follow(servo, min(seconds, 8))
    speeds = [(b - a) / DT_S for a, b in zip([2048.0 + offset, *places], places, strict=False)]
    assert max(map(abs, speeds)) <= fastest + 1e-6
    steps = [abs(b - a) for a, b in zip([0.0, *speeds], speeds, strict=False)]
    assert max(steps) <= rate * DT_S + 1e-6
    if seconds < 8:
        assert abs(places[-1] - offset - clipped) <= 2


def test_what_it_measures_is_in_its_registers_and_whether_it_has_ever_had_a_goal():
    servo = Servo(1)
    servo.sense(1000.4, -100.0, -0.5, DT_S)
    names = ("Present_Position", "Present_Velocity", "Present_Load", "Present_Current", "Present_Voltage", "Moving")
    assert [servo[name] for name in names] == [1000, -100, -500, 208, 119, 1]
    servo.sense(1000.4, 11.0, 0.0, DT_S)  # less than a degree a second
    assert servo["Moving"] == 0 and not servo.told
    servo.write(TORQUE, b"\x01")
    assert not servo.told
    servo.write(TORQUE + 2, b"\x10\x01")
    assert servo.told and servo["Goal_Position"] == 0x110


def test_switching_torque_on_stays_where_the_shaft_is():
    servo = powered(1000.0)
    servo.write(TORQUE, b"\x00")
    servo.sense(3000.0, 0.0, 0.0, DT_S)
    assert servo.drive(DT_S).torque == 0
    servo.write(TORQUE, b"\x01")
    drive = servo.drive(DT_S)
    assert drive.target == 3000 and drive.torque == 1 and servo["Goal_Position"] == 3000


@given(st.floats(0, 1), st.integers(1, 100), st.integers(1, 25))
def test_overload_comes_exactly_when_the_load_stays_above_its_threshold(effort, threshold, tenths):
    servo = powered(Overload_Torque=threshold, Protection_Time=10 * tenths)
    for _ in range(round(tenths * 0.1 / DT_S) - 2):
        servo.sense(servo.shaft, 0.0, effort, DT_S)
    assert not servo["Status"] & OVERLOADED
    for _ in range(4):
        servo.sense(servo.shaft, 0.0, effort, DT_S)
    assert bool(servo["Status"] & OVERLOADED) == (effort >= threshold / 100 - 1e-6)
    assert servo.drive(DT_S).torque == (0.2 if servo["Status"] else 1.0)
    servo.write(TORQUE, b"\x01")
    assert servo["Status"] == 0 and servo.drive(DT_S).torque == 1


def test_a_stalled_motor_heats_until_it_lets_go_and_cools_again():
    servo = powered(Unloading_Condition=OVERHEATED)
    for _ in range(1000):
        servo.sense(servo.shaft, 0.0, 1.0, 1.0)
    assert 70 <= servo["Present_Temperature"] <= 90 and servo["Status"] == OVERHEATED
    assert servo.drive(DT_S).torque == 0
    for _ in range(1000):
        servo.sense(servo.shaft, 0.0, 0.0, 1.0)
    assert servo["Status"] == 0 and servo["Present_Temperature"] < 35
