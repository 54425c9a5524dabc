"""A simulated STS3215 servo (registers, goal following, self-protection), and its side of Feetech's serial protocol.

The protocol (version 0) is bytes in, bytes out, without any I/O. A packet is FF FF, an id, a length, an instruction
(from the host) or an error byte (from a servo), parameters, and the complement of the sum of all bytes but the header.
Several servos share one line; the id addresses one, 0xFE all.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sim.ramp import FASTEST, STEPS, UNIT, ramp

AMBIENT_C, STALL_RISE_C, COOLING_S = 28.0, 60.0, 300.0  # plausible, not measured
STALL_CURRENT = 415  # in units of 6.5 mA
OVERHEATED, OVERLOADED = 0x04, 0x20  # bits of Status and of Unloading_Condition
TORQUE_ON = 1  # a value of Torque_Enable
SAVED = 40  # registers below this address survive a power cycle if written while Lock is 0
SIZE = 87

# name: (address, bytes, sign bit or 0, factory value). The names are LeRobot's.
REGISTERS = {
    "Firmware_Major_Version": (0, 1, 0, 3),
    "Firmware_Minor_Version": (1, 1, 0, 10),
    "Model_Number": (3, 2, 0, 777),
    "ID": (5, 1, 0, 1),
    "Min_Position_Limit": (9, 2, 0, 0),
    "Max_Position_Limit": (11, 2, 0, STEPS - 1),
    "Max_Temperature_Limit": (13, 1, 0, 70),
    "Max_Torque_Limit": (16, 2, 0, 1000),
    "Phase": (18, 1, 0, 12),
    "Unloading_Condition": (19, 1, 0, 0x2C),
    "P_Coefficient": (21, 1, 0, 32),
    "D_Coefficient": (22, 1, 0, 32),
    "Homing_Offset": (31, 2, 11, 0),
    "Operating_Mode": (33, 1, 0, 0),
    "Protective_Torque": (34, 1, 0, 20),
    "Protection_Time": (35, 1, 0, 200),
    "Overload_Torque": (36, 1, 0, 80),
    "Torque_Enable": (40, 1, 0, 0),
    "Acceleration": (41, 1, 0, 0),
    "Goal_Position": (42, 2, 15, 0),
    "Goal_Velocity": (46, 2, 15, 0),
    "Torque_Limit": (48, 2, 0, 1000),
    "Lock": (55, 1, 0, 1),
    "Present_Position": (56, 2, 15, 0),
    "Present_Velocity": (58, 2, 15, 0),
    "Present_Load": (60, 2, 10, 0),
    "Present_Voltage": (62, 1, 0, 120),
    "Present_Temperature": (63, 1, 0, round(AMBIENT_C)),
    "Status": (65, 1, 0, 0),
    "Moving": (66, 1, 0, 0),
    "Present_Current": (69, 2, 0, 0),
    "Maximum_Acceleration": (85, 1, 0, 0),
}
READ_ONLY = frozenset([*range(5), *range(56, 71)])


@dataclass(frozen=True)
class Drive:
    """A servo's command to its motor: target in steps, stiffness (1 at P_Coefficient 16), and torque limit."""

    target: float
    stiffness: float
    torque: float  # fraction of the stall torque


class Servo:
    """A servo with its shaft at `shaft` steps, counting over full turns; `servo[name]` is a register, sign decoded."""

    def __init__(self, servo_id: int, shaft: float = STEPS / 2):
        self.memory = bytearray(SIZE)
        for name, (*_, value) in REGISTERS.items():
            self[name] = value
        self["ID"] = servo_id
        self.saved = bytes(self.memory[:SAVED])
        self.shaft, self.setpoint, self.speed = shaft, shaft, 0.0
        self.celsius = AMBIENT_C
        self.commanded = False  # whether the line has ever set a goal
        self.power_on()

    def __getitem__(self, name: str) -> int:
        """Return the register's value, with its sign decoded."""
        address, length, sign, _ = REGISTERS[name]
        value = int.from_bytes(self.memory[address : address + length], "little")
        return -(value & ~(1 << sign)) if sign and value >> sign & 1 else value

    def __setitem__(self, name: str, value: int) -> None:
        """Set the register; a value too large for it is clipped to the largest it can hold."""
        address, length, sign, _ = REGISTERS[name]
        most = (1 << sign if sign else 1 << 8 * length) - 1
        coded = min(abs(value), most) | (1 << sign if sign and value < 0 else 0)
        self.memory[address : address + length] = coded.to_bytes(length, "little")

    def power_on(self) -> None:
        """Start up: restore the saved registers, reset all others to factory values, torque off."""
        for name, (address, *_, value) in REGISTERS.items():
            if address >= SAVED:
                self[name] = value
        self.memory[:SAVED] = self.saved
        self["Torque_Limit"] = self["Max_Torque_Limit"]
        self.powered, self.strained_s = True, 0.0
        self.sense(self.shaft, 0.0, 0.0, 0.0)
        self.stay()

    def power_off(self) -> None:
        """Power off: the servo goes limp and stops answering."""
        self.powered = False

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes of registers from `address` on; zeros beyond the last."""
        return bytes(self.memory[address : address + length]).ljust(length, b"\0")

    def write(self, address: int, data: bytes) -> None:
        """Write registers as the line does: read-only ones are unchanged, and side effects take place."""
        for at, value in enumerate(data, address):
            if at >= SIZE or at in READ_ONLY:
                continue
            if at == REGISTERS["Torque_Enable"][0]:
                self._switch(value)
                continue
            self.memory[at] = value
            self.commanded |= at == REGISTERS["Goal_Position"][0]
            if at < SAVED and self["Lock"] == 0:
                self.saved = self.saved[:at] + bytes([value]) + self.saved[at + 1 :]

    def _switch(self, value: int) -> None:
        if value == TORQUE_ON and self["Torque_Enable"] != TORQUE_ON:
            self.stay()
        self["Torque_Enable"] = value
        self["Status"] &= ~OVERLOADED
        self.strained_s = 0.0

    def stay(self) -> None:
        """Make the present position the goal, at rest."""
        self["Goal_Position"] = self["Present_Position"]
        self.setpoint, self.speed = self.shaft, 0.0

    def overload(self) -> None:
        """Enter overload protection: reduced torque, and an error in every reply, until torque is switched."""
        self["Status"] |= OVERLOADED

    def present(self) -> float:
        """Return the position as reported: shaft minus homing offset, within one turn unless Phase bit 4 is set."""
        place = self.shaft - self["Homing_Offset"]
        return place if self["Phase"] & 0x10 else (place + 0.5) % STEPS - 0.5

    def drive(self, dt_s: float) -> Drive:
        """Move the setpoint to the goal for `dt_s` seconds by Acceleration and Goal_Velocity; return the command."""
        status, limit = self["Status"], self["Torque_Limit"] / 1000
        off = self["Torque_Enable"] != TORQUE_ON or self["Operating_Mode"] != 0 or status & OVERHEATED
        if not self.powered or off:
            self.setpoint, self.speed = self.shaft, 0.0
            return Drive(self.shaft, 0.0, 0.0)
        low, high = self["Min_Position_Limit"], self["Max_Position_Limit"]
        goal = self["Goal_Position"]
        if low or high:
            goal = max(low, min(high, goal))
        away = self.shaft + goal - self.present() - self.setpoint
        fastest = abs(self["Goal_Velocity"]) or FASTEST
        (moved,), self.speed = ramp(away, self.speed, fastest, UNIT * self["Acceleration"], (dt_s,))
        self.setpoint += moved
        if status & OVERLOADED:
            limit = min(limit, self["Protective_Torque"] / 100)
        return Drive(self.setpoint, self["P_Coefficient"] / 16, min(limit, 1.0))

    def sense(self, shaft: float, speed: float, effort: float, dt_s: float) -> None:
        """Update registers by the shaft (steps, steps/s) and effort, a share of the stall torque; protect the motor."""
        self.shaft = shaft
        self["Present_Position"] = round(self.present())
        self["Present_Velocity"] = round(speed)
        self["Present_Load"] = round(1000 * effort)
        self["Present_Current"] = round(STALL_CURRENT * abs(effort))
        self["Present_Voltage"] = 120 - round(2 * abs(effort))
        self["Moving"] = int(abs(speed) > STEPS / 360 or abs(self.speed) > STEPS / 360)
        self.celsius += dt_s * (STALL_RISE_C * effort**2 + AMBIENT_C - self.celsius) / COOLING_S
        self["Present_Temperature"] = round(self.celsius)
        self._protect(abs(effort), dt_s)

    def _protect(self, effort: float, dt_s: float) -> None:
        conditions = self["Unloading_Condition"]
        hot = self.celsius >= self["Max_Temperature_Limit"] and conditions & OVERHEATED
        self["Status"] = self["Status"] & ~OVERHEATED | (OVERHEATED if hot else 0)
        strained = effort >= self["Overload_Torque"] / 100 - 1e-6
        self.strained_s = self.strained_s + dt_s if strained else 0.0
        if conditions & OVERLOADED and self.strained_s >= self["Protection_Time"] / 100 > 0:
            self.overload()


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
    """Finds packets in a byte stream, skipping noise and wrong checksums, which `spoilt` counts."""

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
        """Carry out PING, READ or WRITE on a servo; return its reply, with the error and id from before, or None."""
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
