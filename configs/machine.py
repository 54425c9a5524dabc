"""The processor cores and graphics cards that this process may use. Imports nothing slow."""

import math
import os
import re
import sys
from pathlib import Path

from worldmodel.errors import UserError

CGROUPS = Path("/sys/fs/cgroup")
OTHER_DRIVERS = ("dxg", "kfd", "nvmap")
"""In /dev: of WSL, of AMD's cards, of a Jetson; there only PyTorch knows the devices."""


def cores() -> int:
    """Return how many cores this process was granted: by its affinity and by the quotas of its control groups."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = Path("/proc/self/cgroup")
    return math.ceil(min(there, quota(own.read_text(), CGROUPS))) if own.is_file() else there


def quota(groups: str, root: Path) -> float:
    """Return the smallest quota, in cores, of the control groups in /proc/<process>/cgroup and of those above them."""
    found = math.inf
    for line in groups.splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        for folder in (top / name.lstrip("/"), *[top / part for part in Path(name.lstrip("/")).parents], top):
            new, old = folder / "cpu.max", folder / "cpu.cfs_quota_us"
            if new.is_file():
                allowed, period = new.read_text().split()
            elif old.is_file():
                allowed, period = old.read_text(), (folder / "cpu.cfs_period_us").read_text()
            else:
                continue
            if allowed != "max" and int(allowed) > 0:
                found = min(found, int(allowed) / int(period))
    return found


def check_threads(threads: int) -> None:
    """Raise UserError for more threads than cores."""
    if threads > (there := cores()):
        raise UserError(f"threads={threads}: at most {there}, the cores granted here")


def check_device(device: object) -> None:
    """Raise UserError for a CUDA device that is not here, as far as Linux tells without PyTorch."""
    found = re.fullmatch(r"cuda(?::(\d+))?", str(device))
    if not found or sys.platform != "linux" or any(Path("/dev", name).exists() for name in OTHER_DRIVERS):
        return
    if int(found[1] or 0) >= (there := len(cards())):
        raise UserError(f"device={device}: CUDA devices here: {there}; device=cpu works")


def cards() -> list[str]:
    """Return the NVIDIA cards that this process may use, as CUDA_VISIBLE_DEVICES names them (Linux)."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name]
    found = [re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*")]
    return [str(number) for number in range(sum(map(bool, found)))]


def own_card(device: object, number: int) -> dict[str, str]:
    """Return what member `number` of a sweep has in its environment, so that each has one card of its own in turn."""
    there = cards() if device in ("auto", "cuda") else []
    return {"CUDA_VISIBLE_DEVICES": there[number % len(there)]} if len(there) > 1 else {}
