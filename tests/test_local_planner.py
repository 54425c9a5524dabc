"""A planner's own process: nothing stays open where it cannot start, and the robot is told why it cannot plan."""

import os
import sys

import pytest

from configs.arm.planning import LocalPlanner
from policies.serving.link import Link
from policies.serving.messages import Begin
from policies.serving.sealing import Refused


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="lists what is open as Linux does")
def test_a_process_that_cannot_start_leaves_nothing_open(tmp_path, monkeypatch):
    planner = LocalPlanner(tmp_path, 0, "cpu", 1)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    before = descriptors()
    with pytest.raises(OSError, match="missing"):
        planner.reach()
    assert descriptors() == before


@pytest.mark.parametrize(
    ("device", "says"),
    [("abacus", r"^device=abacus: one of cpu, cuda, auto"), ("cpu", r"none: no such folder$")],
    ids=["device", "checkpoint"],
)
def test_a_planner_that_cannot_be_says_why_and_nothing_else(tmp_path, capfd, hidden, device, says):
    planner = LocalPlanner(tmp_path / "none", 0, device, 1)
    link = Link(planner.reach, planner.secret, Begin("reach", 3, 2, "tied", 30.0, 2, 2, 2, 1), print, None, again=False)
    with pytest.raises(Refused, match=says):
        link.connect()
    planner.stop()
    assert capfd.readouterr().err == ""
