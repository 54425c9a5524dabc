"""The servos' side of the Feetech serial protocol (version 0): bytes in, bytes out; it performs no I/O itself.

A packet is FF FF, an id, a length, an instruction (from the host) or an error byte (from a servo), parameters, and the
complement of the sum of all bytes but the header. Several servos share one line; the id addresses one, 0xFE all.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sim.twin.servo import Servo

PING, READ, WRITE, SYNC_READ, SYNC_WRITE = 1, 2, 3, 0x82, 0x83
BROADCAST = 0xFE
HEADER = b"\xff\xff"
LONGEST = 250  # maximum of the length field
GAP_S = 0.02  # silence after which a servo discards a partial packet


@dataclass(frozen=True)
class Packet:
    """An instruction from the host: servo id, instruction code and parameters."""

    id: int
    instruction: int
    parameters: bytes


def encode(servo_id: int, code: int, parameters: bytes = b"") -> bytes:
    """Encode a packet; `code` is its instruction, or its error byte if it is a servo's answer."""
    body = bytes([servo_id, len(parameters) + 2, code]) + parameters
    return HEADER + body + bytes([~sum(body) & 0xFF])


def cut(data: bytes) -> list[bytes]:
    """Split bytes received together into consecutive packets; the last part may be incomplete, or noise."""
    parts = []
    while len(data) > 4 and data.startswith(HEADER):
        size = data[3] + 4
        parts.append(data[:size])
        data = data[size:]
    return [*parts, data] if data else parts


class Framer:
    """Finds packets in a byte stream, however it is split; skips noise and packets with a wrong checksum.

    `spoilt` counts the wrong checksums.
    """

    def __init__(self):
        self._held = bytearray()
        self._heard_s = 0.0
        self.spoilt = 0

    def feed(self, data: bytes, now_s: float) -> list[Packet]:
        """Return the packets completed by `data`, received at `now_s` on any monotonic clock."""
        if now_s - self._heard_s > GAP_S:
            self._held.clear()
        self._heard_s = now_s
        held, packets = self._held, list[Packet]()
        held += data
        while len(held) >= 4:
            size = held[3] + 4
            if not held.startswith(HEADER) or held[2] == 0xFF or not 2 <= held[3] <= LONGEST:
                del held[0]
            elif len(held) < size:
                break
            elif ~sum(held[2 : size - 1]) & 0xFF == held[size - 1]:
                packets.append(Packet(held[2], held[4], bytes(held[5 : size - 1])))
                del held[:size]
            else:
                self.spoilt += 1
                del held[0]
        return packets


class Bus:
    """Servos sharing one line. A servo without power receives nothing."""

    def __init__(self, servos: Iterable[Servo]):
        self.servos = list(servos)

    def answer(self, packet: Packet) -> list[bytes]:
        """Carry out an instruction and return the status packets sent back, in order."""
        given = packet.parameters
        if packet.instruction == SYNC_READ:
            return self._sync_read(given)
        if packet.instruction == SYNC_WRITE:
            self._sync_write(given)
            return []
        replies = [self._one(servo, packet.instruction, given) for servo in self._called(packet.id)]
        speaks = packet.id != BROADCAST or packet.instruction == PING
        return [reply for reply in replies if reply is not None and speaks]

    def _called(self, servo_id: int) -> list[Servo]:
        return [s for s in self.servos if s.powered and servo_id in (BROADCAST, s["ID"])]

    def _one(self, servo: Servo, instruction: int, given: bytes) -> bytes | None:
        """Carry out PING, READ or WRITE on one servo; return its reply, or None if not understood.

        The reply carries the error byte and the id from before the instruction took effect.
        """
        name, error, found = servo["ID"], servo["Status"], b""
        if instruction == READ and len(given) == 2 and given[1] <= LONGEST - 2:
            found = servo.read(given[0], given[1])
        elif instruction == WRITE and len(given) >= 2:
            servo.write(given[0], given[1:])
        elif instruction != PING:
            return None
        return encode(name, error, found)

    def _sync_read(self, given: bytes) -> list[bytes]:
        if len(given) < 2 or given[1] > LONGEST - 2:
            return []
        address, length = given[:2]
        called = [s for servo_id in given[2:] if servo_id != BROADCAST for s in self._called(servo_id)]
        return [encode(s["ID"], s["Status"], s.read(address, length)) for s in called]

    def _sync_write(self, given: bytes) -> None:
        if len(given) < 2 or given[1] == 0 or (len(given) - 2) % (given[1] + 1):
            return
        address, length = given[:2]
        for at in range(2, len(given), length + 1):
            for servo in self._called(given[at]) if given[at] != BROADCAST else []:
                servo.write(address, given[at + 1 : at + 1 + length])
