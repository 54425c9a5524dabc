"""Being served before others: what the system grants for a while is given back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="asks as Linux does")

GIVEN_BACK = """
import os

from configs.arm.priority import hurried


def state():
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.sched_getparam(0), os.getpriority(os.PRIO_PROCESS, 0)


before = state()
for _ in range(2):
    with hurried(True) as granted:
        scheduler, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
        assert (granted == "real-time") == (state()[0] == os.SCHED_RR), granted
        os.sched_setscheduler(0, scheduler | os.SCHED_RESET_ON_FORK, parameters)  # as where real time is granted
        if os.getuid() == 0:
            os.setuid(65534)
    assert state() == before
"""


def test_a_user_without_rights_gives_back_what_was_granted():
    """In a process that loses its rights meanwhile, as an ordinary user who may ask for real time never had them."""
    folder = Path(__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", GIVEN_BACK], check=False, capture_output=True, text=True, cwd=folder)
    assert ran.returncode == 0, ran.stderr


def test_who_does_not_ask_stays_as_they_are():
    from configs.arm.priority import hurried

    before = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
    with hurried(False) as granted:
        assert granted == "ordinary"
        assert (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) == before
