"""The servo bus, without a wire: it survives any bytes, hears what is whole, and keeps its registers' rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.twin.feetech import (
    ACTION,
    BROADCAST,
    GAP_S,
    PING,
    READ,
    REG_WRITE,
    SYNC_READ,
    SYNC_WRITE,
    WRITE,
    Bus,
    Framer,
    cut,
    encode,
)
from sim.twin.servo import REGISTERS, Servo

IDS = (1, 2, 3)
GOAL, TORQUE, LOCK, PRESENT, P_GAIN, NAME = (
    REGISTERS[name][0] for name in ("Goal_Position", "Torque_Enable", "Lock", "Present_Position", "P_Coefficient", "ID")
)

ids = st.sampled_from([*IDS, 4, BROADCAST])
packets = st.builds(
    encode,
    ids,
    st.sampled_from([PING, READ, WRITE, REG_WRITE, ACTION, SYNC_READ, SYNC_WRITE, 0x77]),
    st.binary(max_size=20),
)


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


@given(packets, st.data())
def test_a_packet_with_any_one_byte_changed_is_dropped(sent, data):
    at = data.draw(st.integers(0, len(sent) - 1))
    change = data.draw(st.integers(1, 255))
    spoilt = sent[:at] + bytes([sent[at] ^ change]) + sent[at + 1 :]
    assert not any(encode(p.id, p.instruction, p.parameters) == sent for p in Framer().feed(spoilt, 0.0))
    if at != 3:  # with its length intact, nothing at all is heard
        assert Framer().feed(spoilt, 0.0) == [] or b"\xff\xff" in spoilt[1:]


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


def test_a_registered_write_waits_for_the_action_and_a_changed_id_answers_to_its_new_name_only():
    line = bus()
    talk(line, encode(1, REG_WRITE, bytes([GOAL, 9, 0])))
    assert line.servos[0]["Goal_Position"] != 9
    talk(line, encode(BROADCAST, ACTION))
    assert line.servos[0]["Goal_Position"] == 9
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
    servo.write(address, data.replace(b"\x80", b"\x00"))
    assert servo.read(PRESENT, 15) == before and len(servo.memory) == len(Servo(1).memory)
