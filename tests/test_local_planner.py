"""A planner's own process: nothing stays open where it cannot start."""

import os
import sys

import pytest

from configs.planning import LocalPlanner


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
