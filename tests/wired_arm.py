"""LeRobot's own SO-101 driver whose serial port leads to six servos in this process: they speak Feetech's protocol."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import serial
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig

PING, READ, WRITE, SYNC_READ, SYNC_WRITE, EVERYONE = 1, 2, 3, 0x82, 0x83, 0xFE
MODEL, LOW, HIGH, OFFSET, TORQUE, GOAL, PRESENT = 3, 9, 11, 31, 40, 42, 56
OVERLOADED = 0x20
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")


class Chain:
    """Six servos on one wire. `dead` answers no more, each answer of `strained` says overload, `held` does not move,
    `sags` stays short of its goal; `pulled` is the cable. `log`: what reached them.
    """

    def __init__(self):
        self.memory = {number: bytearray(128) for number in range(1, 7)}
        for number, memory in self.memory.items():
            memory[0], memory[1], memory[5] = 3, 10, number
            for address, value in ((MODEL, 777), (LOW, 500), (HIGH, 3595), (GOAL, 2047), (PRESENT, 2047)):
                memory[address : address + 2] = value.to_bytes(2, "little")
        self.dead = self.strained = self.held = self.sags = None
        self.pulled, self.log, self.answers = False, [], bytearray()

    def torques(self):
        return [memory[TORQUE] for memory in self.memory.values()]

    def move(self, number, degrees):
        """Put a servo there, by hand, so many degrees from its middle. One with torque is to stay there."""
        memory, place = self.memory[number], (2047 + round(degrees * 4095 / 360)).to_bytes(2, "little")
        for address in (PRESENT, GOAL)[: 1 + memory[TORQUE]]:
            memory[address : address + 2] = place

    def tear(self, number, degrees):
        """Move a servo so far at once, against its torque."""
        memory = self.memory[number]
        place = int.from_bytes(memory[PRESENT : PRESENT + 2], "little") + round(degrees * 4095 / 360)
        memory[PRESENT : PRESENT + 2] = place.to_bytes(2, "little")

    def handle(self, number, instruction, given):
        if instruction == PING:
            self.answer(number)
        elif instruction == READ:
            self.answer(number, self.memory[number][given[0] : given[0] + given[1]])
        elif instruction == WRITE:
            self.write(number, given[0], given[1:])
            self.answer(number)
        elif instruction == SYNC_READ:
            for each in given[2:]:
                self.follow(self.memory[each])
                self.answer(each, self.memory[each][given[0] : given[0] + given[1]])
        elif instruction == SYNC_WRITE:
            self.log.append("goal")
            for at in range(2, len(given), given[1] + 1):
                self.write(given[at], given[0], given[at + 1 : at + 1 + given[1]])

    def follow(self, memory):
        """Half-way to the goal, while there is torque; `held` stays, `sags` by seven degrees."""
        goal, place = (int.from_bytes(memory[a : a + 2], "little") for a in (GOAL, PRESENT))
        if memory[TORQUE] and memory[5] != self.held:
            place = goal - 80 if memory[5] == self.sags else place + round((goal - place) / 2)
            memory[PRESENT : PRESENT + 2] = place.to_bytes(2, "little")

    def write(self, number, address, data):
        if number == self.dead:
            return
        self.memory[number][address : address + len(data)] = data
        if address == TORQUE:
            self.log.append(f"{'stiffen' if data[0] else 'release'} {number}")

    def answer(self, number, data=b""):
        if number not in (self.dead, EVERYONE):
            body = bytes([number, len(data) + 2, OVERLOADED * (number == self.strained), *data])
            self.answers += b"\xff\xff" + body + bytes([~sum(body) & 255])
        elif number == EVERYONE:
            for each in self.memory:
                self.answer(each)


class Wire:
    """What serial.Serial gives: each packet is answered at once, or not at all."""

    def __init__(self, chain):
        self.chain = chain
        self._device = os.memfd_create("wire")

    def fileno(self):
        return self._device

    def _plugged(self):
        if self.chain.pulled:
            raise serial.SerialException("unplugged")

    @property
    def in_waiting(self):
        return len(self.chain.answers)

    def write(self, packet):
        self._plugged()
        packet = bytes(packet)
        assert packet[:2] == b"\xff\xff"
        assert packet[-1] == ~sum(packet[2:-1]) & 255
        self.chain.handle(packet[2], packet[4], packet[5:-1])
        return len(packet)

    def read(self, count):
        self._plugged()
        data, self.chain.answers = self.chain.answers[:count], self.chain.answers[count:]
        return bytes(data)

    def flush(self):
        self._plugged()
        self.chain.answers.clear()

    reset_input_buffer = flush

    def close(self):
        os.close(self._device)
        self.chain.log.append("close")


class Clock:
    """Time that passes when it is waited for; a look takes `look` seconds, and a sleeper is woken `late` too late."""

    def __init__(self, now=0.0, look=1e-3, late=0.0):
        self.now, self.look, self.late = now, look, late  # a call over the wire takes a while

    def monotonic(self):
        self.now += self.look
        return self.now

    def sleep(self, seconds):
        self.now += seconds + self.late


class FakePlanner:
    """Plans curves of `length` steps, each `delays` steps after it was asked, later ones `otherwise`; None: never.

    `action(number, since)`: what all its steps do, by the number of the plan, and of those since one from rest.
    `asked`: when, the state, whether from rest. `now` is the time in steps, for a test to advance.
    """

    def __init__(self, *delays, otherwise=1, action=lambda number, since: number / 100, length=4):
        self.delays, self.otherwise, self.action, self.length = list(delays), otherwise, action, length
        self.asked, self.now, self.due, self.since = [], 0, [], 0

    @property
    def waiting(self):
        return bool(self.due)

    def ask(self, state, fresh, frames, there):
        if self.waiting:
            return False
        self.asked.append((self.now, state, fresh))
        number, self.since = len(self.asked), 0 if fresh else self.since + 1
        delay = self.delays.pop(0) if self.delays else self.otherwise
        if delay is not None:
            actions = np.full((self.length, 6), self.action(number, self.since))
            answer = SimpleNamespace(number=number, plan_ms=1.0, actions=actions, tokens=(), length=self.length)
            self.due.append((self.now + delay, answer))
        return True

    def poll(self):
        return self.due.pop(0)[1] if self.due and self.due[0][0] <= self.now else None

    def gone(self):
        return ""


class Leader(Teleoperator):
    """A leader arm that somebody moves to `goal(step)` (6,); `lost` once its cable is out."""

    config_class, name = TeleoperatorConfig, "leader"
    action_features, feedback_features = {f"{joint}.pos": float for joint in JOINTS}, {}
    is_connected = is_calibrated = lost = False

    def __init__(self, goal):
        self.goal, self.steps = goal, 0

    def __del__(self):
        """Nothing was begun."""

    def connect(self, calibrate=True):
        self.is_connected = self.is_calibrated = True

    def calibrate(self):
        raise AssertionError("nobody is there to be asked")

    configure = calibrate

    def get_action(self):
        if self.lost:
            raise OSError(5, "Input/output error")
        self.steps += 1
        return dict(zip(self.action_features, map(float, self.goal(self.steps)), strict=True))

    def send_feedback(self, feedback):
        raise AssertionError("nobody asked for it")

    def disconnect(self):
        self.is_connected = False


class WiredArm(SimpleNamespace):
    """`inner`: LeRobot's SO-101 on the `chain`; `robot`: the same behind a gate with careful limits."""

    def __init__(self, folder, replace, clock=None):
        from robot.arms import driven, gated

        servo = {"drive_mode": 0, "homing_offset": 0, "range_min": 500, "range_max": 3595}
        calibration = {name: {"id": i, **servo} for i, name in enumerate(JOINTS, 1)}
        Path(folder, "arm.json").write_text(json.dumps(calibration))
        chain = Chain()
        replace(serial, "Serial", lambda **_: Wire(chain))
        inner = driven("wire", "arm", folder)
        clock = clock or Clock()
        super().__init__(chain=chain, clock=clock, inner=inner, robot=gated(inner, "careful", clock=clock))
