"""LeRobot's own SO-101 driver whose serial port leads to six servos in this process: they speak Feetech's protocol."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import serial
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig

from sim.so101.joints import JOINTS
from sim.twin.servo import OVERLOADED, REGISTERS, SYNC_READ, SYNC_WRITE, WRITE, Bus, Framer, Servo


class Chain:
    """Six of the twin's servos on one wire; but switching their torque on leaves them their old goal.

    `dead` answers no more, each answer of `strained` says overload, `held` does not move, `sags` stays short of its
    goal; `pulled` is the cable. `log`: what reached them.
    """

    def __init__(self):
        self.servos = {number: Servo(number, 2047.0) for number in range(1, 7)}
        for servo in self.servos.values():
            servo["Min_Position_Limit"], servo["Max_Position_Limit"], servo.stay = 500, 3595, lambda: None
        self.dead = self.strained = self.held = self.sags = None
        self.pulled, self.log, self.answers = False, [], bytearray()
        self._bus, self._framer = Bus(self.servos.values()), Framer()

    def torques(self):
        return [servo["Torque_Enable"] for servo in self.servos.values()]

    def move(self, number, degrees):
        """Put a servo there, by hand, so many degrees from its middle. One with torque is to stay there."""
        servo = self.servos[number]
        servo["Present_Position"] = 2047 + round(degrees * 4095 / 360)
        if servo["Torque_Enable"]:
            servo["Goal_Position"] = servo["Present_Position"]

    def tear(self, number, degrees):
        """Move a servo so far at once, against its torque."""
        self.servos[number]["Present_Position"] += round(degrees * 4095 / 360)

    def carry(self, data):
        """The servos get a packet; what they answer is in `answers`."""
        (packet,) = self._framer.feed(data, 0.0)
        for number, servo in self.servos.items():
            servo.powered, servo["Status"] = number != self.dead, OVERLOADED * (number == self.strained)
            if packet.instruction == SYNC_READ and servo["Torque_Enable"] and number != self.held:
                goal, place = servo["Goal_Position"], servo["Present_Position"]  # it goes half-way
                servo["Present_Position"] = goal - 80 if number == self.sags else place + round((goal - place) / 2)
        given = packet.parameters
        if packet.instruction == SYNC_WRITE:
            self.log.append("goal")
        elif packet.instruction == WRITE and given[0] == REGISTERS["Torque_Enable"][0] and packet.id != self.dead:
            self.log.append(f"{'stiffen' if given[1] else 'release'} {packet.id}")
        self.answers += b"".join(self._bus.answer(packet))


class Wire:
    """What serial.Serial gives: each packet is answered at once, or not at all."""

    def __init__(self, chain):
        self.chain, self._device = chain, os.memfd_create("wire")

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
        self.chain.carry(bytes(packet))
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

    def ask(self, state, fresh, frames, there, episode=0, frame=0, reply=""):
        if self.waiting:
            return False
        self.asked.append((self.now, state, fresh))
        number, self.since = len(self.asked), 0 if fresh else self.since + 1
        delay = self.delays.pop(0) if self.delays else self.otherwise
        if delay is not None:
            actions = np.full((self.length, 6), self.action(number, self.since))
            answer = SimpleNamespace(
                number=number, plan_ms=1.0, actions=actions, tokens=(), length=self.length, **self.told(number)
            )
            self.due.append((self.now + delay, answer))
        return True

    def told(self, number):
        """What an answer says besides: a rung, and why."""
        return {"rung": "", "why": "", "choices": "", "gauges": ()}

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
