"""The servos without a wire: their bus survives any bytes, and each keeps its registers' rules and protects itself."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.twin.servo import (
    BROADCAST,
    GAP_S,
    OVERHEATED,
    OVERLOADED,
    PING,
    READ,
    REGISTERS,
    STEPS,
    SYNC_READ,
    SYNC_WRITE,
    WRITE,
    Bus,
    Framer,
    Servo,
    cut,
    encode,
)

IDS = (1, 2, 3)
GOAL, TORQUE, LOCK, PRESENT, P_GAIN, NAME = (
    REGISTERS[name][0] for name in ("Goal_Position", "Torque_Enable", "Lock", "Present_Position", "P_Coefficient", "ID")
)

ids = st.sampled_from([*IDS, 4, BROADCAST])
instructions = st.sampled_from([PING, READ, WRITE, SYNC_READ, SYNC_WRITE, 0x77])
packets = st.builds(encode, ids, instructions, st.binary(max_size=20))


def bus() -> Bus:
    return Bus(Servo(name) for name in IDS)


def talk(line: Bus, data: bytes) -> list[bytes]:
    """What comes back for `data`, sent at once."""
    return [reply for packet in Framer().feed(data, 0.0) for reply in line.answer(packet)]


def payload(reply: bytes) -> bytes:
    return reply[5:-1]


@given(st.lists(st.one_of(st.binary(max_size=300), packets), max_size=8))
def test_any_bytes_are_survived_and_the_next_packet_is_understood(chunks):
    framer, line = Framer(), bus()
    for at, chunk in enumerate(chunks):
        for packet in framer.feed(chunk, at * 0.001):
            for reply in line.answer(packet):
                assert reply[:2] == b"\xff\xff" and len(reply) == reply[3] + 4
                assert sum(reply[2:]) & 0xFF == 0xFF  # the checksum is the complement of the rest
    later = framer.feed(encode(BROADCAST, PING), 1.0)
    assert len(line.answer(later[0])) == len(IDS)


@given(st.lists(packets, min_size=1, max_size=6), st.data())
def test_packets_cut_anywhere_are_the_packets_sent_whole(sent, data):
    stream = b"".join(sent)
    assert cut(stream) == sent and b"".join(cut(stream[1:])) == stream[1:]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    whole, framer = Framer().feed(stream, 0.0), Framer()
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    found = [packet for at, piece in enumerate(pieces) for packet in framer.feed(piece, at * GAP_S / 100)]
    assert found == whole and len(whole) == len(sent)


def test_half_a_packet_is_forgotten_after_a_silence():
    half, ping = encode(2, WRITE, bytes(100))[:10], encode(2, PING)
    hasty, calm = Framer(), Framer()
    assert hasty.feed(half, 9.0) == calm.feed(half, 9.0) == []
    assert hasty.feed(ping, 9.0 + GAP_S / 2) == []  # still taken for the rest
    assert len(calm.feed(ping, 9.0 + GAP_S * 2)) == 1


def test_a_write_is_answered_and_read_back_and_a_sync_write_is_silent():
    line = bus()
    assert talk(line, encode(2, WRITE, bytes([GOAL, 0x34, 0x02]))) == [encode(2, 0)]
    assert payload(talk(line, encode(2, READ, bytes([GOAL, 2])))[0]) == b"\x34\x02"
    assert talk(line, encode(BROADCAST, SYNC_WRITE, bytes([GOAL, 2, 1, 1, 0, 3, 3, 0]))) == []
    replies = talk(line, encode(BROADCAST, SYNC_READ, bytes([GOAL, 2, 3, 9, 1])))
    assert replies == [encode(3, 0, b"\x03\x00"), encode(1, 0, b"\x01\x00")]
    assert talk(line, encode(BROADCAST, WRITE, bytes([GOAL, 7, 0]))) == []
    assert [servo["Goal_Position"] for servo in line.servos] == [7, 7, 7]


def test_a_changed_id_answers_to_its_new_name_only():
    line = bus()
    assert talk(line, encode(1, WRITE, bytes([NAME, 7]))) == [encode(1, 0)]
    assert talk(line, encode(1, PING)) == [] and talk(line, encode(7, PING)) == [encode(7, 0)]


@pytest.mark.parametrize("locked", [True, False])
def test_the_lock_decides_what_outlives_the_power(locked):
    servo = Servo(1)
    servo.write(LOCK, bytes([locked]))
    servo.write(P_GAIN, b"\x10")
    servo.write(TORQUE, b"\x01")
    assert servo["P_Coefficient"] == 16
    servo.power_off()
    assert Bus([servo]).answer(Framer().feed(encode(1, PING), 0.0)[0]) == []
    servo.power_on()
    assert servo["P_Coefficient"] == (32 if locked else 16)
    assert servo["Torque_Enable"] == 0


@given(st.integers(0, 255), st.binary(min_size=1, max_size=40))
def test_what_a_servo_measures_cannot_be_written(address, data):
    servo = Servo(1, shaft=1234.0)
    servo["Torque_Enable"] = 1
    before = servo.read(PRESENT, 15)
    servo.write(address, data)
    assert servo.read(PRESENT, 15) == before and len(servo.memory) == len(Servo(1).memory)


DT_S = 0.005


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
