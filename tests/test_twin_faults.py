"""The twin's faults one by one: what each takes away, that it comes back, and that a wrong wish is refused."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.commands import twin as main
from sim.so101.joints import JOINTS
from sim.twin.arm import TwinArm, build, fitting, limits
from sim.twin.faults import CABLES, FaultConfig, Faults
from sim.twin.servo import OVERLOADED


@pytest.fixture(scope="module")
def arm():
    model = build()
    return TwinArm(model, fitting(limits(model)))


@pytest.fixture
def plugs():
    """What the host's port was commanded, in order."""
    return []


@pytest.fixture
def faults(arm, plugs):
    made = Faults(arm, plugs.append)
    yield made
    made.mend()


def powered(arm: TwinArm) -> list[bool]:
    return [servo.powered for servo in arm.servos.values()]


@given(st.binary(min_size=1, max_size=60), st.integers(0, 99))
def test_a_line_loses_all_changes_one_byte_or_delivers_as_it_was(data, seed):
    line = Faults(None, None, seed)
    assert line.transmit(data) == data
    line.corrupted = 1.0
    arrived = line.transmit(data)
    assert len(arrived) == len(data) and sum(a != b for a, b in zip(arrived, data, strict=True)) == 1
    line.lost = 1.0
    assert line.transmit(data) == b""
    assert line.counts == {"corrupted": 1, "lost": 1}


@pytest.mark.parametrize("cable", CABLES)
def test_a_cable_takes_what_hangs_on_it_and_gives_it_back(arm, faults, plugs, cable):
    faults.pull(cable)
    alive = {"usb": 6, "power": 0}.get(cable, JOINTS.index(cable) if cable in JOINTS else 0)
    assert powered(arm) == [True] * alive + [False] * (6 - alive)
    assert plugs[-1] == (cable != "usb")
    faults.pull(cable)
    assert faults.counts == {"cable": 1}  # it is out already
    faults.plug(cable)
    assert powered(arm) == [True] * 6 and plugs[-1]


def test_every_key_begins_its_fault_and_mending_ends_it(arm, faults, plugs):
    faults.begin(FaultConfig(lost=0.1, dead="gripper", overload="elbow_flex", held="shoulder_pan", cable="usb"))
    assert powered(arm) == [True] * 5 + [False] and not plugs[-1]
    assert arm.servos["elbow_flex"]["Status"] == OVERLOADED and arm.held("shoulder_pan")
    assert faults.counts == {"dead": 1, "overload": 1, "held": 1, "cable": 1}
    faults.mend()
    assert powered(arm) == [True] * 6 and plugs[-1] and not arm.held("shoulder_pan")
    arm.servos["elbow_flex"].write(40, b"\x00")
    assert arm.servos["elbow_flex"]["Status"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "port_file=: a file"),
        (("port_file=port", "faults.lots=1"), "did you mean faults.lost"),
        (("port_file=port", "scene=none.xml"), "none.xml: not a MuJoCo scene"),
        (("port_file=port",), "twin.json: not a LeRobot calibration"),
        ((f"port_file={'long/' * 30}port",), "more than 107 bytes"),
    ],
)
def test_the_command_refuses_in_one_line_and_leaves_nothing(monkeypatch, capsys, tmp_path, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twin.json").write_text("hello")
    monkeypatch.setattr(sys, "argv", ["semagram-twin", *words])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == "" and said in err and len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["twin.json"]
