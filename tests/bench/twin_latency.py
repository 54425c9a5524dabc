"""How soon the twin answers on a busy machine: `python tests/bench/twin_latency.py [seconds] [busy processes]`.

A client reads all six positions at 60 Hz and times each answer, from before it writes to when the last byte has come,
waiting without polling; `busy` processes keep every core occupied meanwhile. Where the user may, the client runs in
real time like the twin, so that its own waiting for a core is not counted; else it is, and the line says so.
"""

import json
import multiprocessing
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sim.twin.feetech import BROADCAST, SYNC_READ, encode
from sim.twin.servo import REGISTERS

ASK = encode(BROADCAST, SYNC_READ, bytes([REGISTERS["Present_Position"][0], 2, 1, 2, 3, 4, 5, 6]))
ANSWER = 6 * 8  # bytes
RATE_HZ, PATIENCE_S = 60, 1.0


def burn() -> None:
    """Use a core."""
    while True:
        sum(range(100_000))


def ask(port: int) -> float:
    """Seconds until the whole answer has come; infinite if it does not."""
    began, length = time.perf_counter(), 0
    os.write(port, ASK)
    while length < ANSWER:
        if not select.select([port], [], [], PATIENCE_S)[0]:
            return np.inf
        length += len(os.read(port, ANSWER))
    return time.perf_counter() - began


def measure(name: str, seconds: float) -> np.ndarray:
    """Answer times (count,) in ms, at RATE_HZ."""
    port = os.open(name, os.O_RDWR | os.O_NOCTTY)
    times = []
    for _ in range(round(seconds * RATE_HZ)):
        times.append(1000 * ask(port))
        time.sleep(1 / RATE_HZ)
    os.close(port)
    return np.array(times)


def main() -> None:
    """Print one line of JSON for the client as it is, and one for it in real time."""
    seconds, busy = float((sys.argv[1:] or ["20"])[0]), int((sys.argv[2:] or [2 * (os.cpu_count() or 1)])[0])
    burners = [multiprocessing.Process(target=burn, daemon=True) for _ in range(busy)]
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        command = [sys.executable, "-m", "configs.commands", "twin", f"port_file={port_file}"]
        twin = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while not port_file.exists():
            time.sleep(0.05)
        for burner in burners:
            burner.start()
        for client in ("ordinary", "real-time"):
            if client == "real-time":
                os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
            times = measure(port_file.read_text().strip(), seconds)
            quantiles = np.percentile(times, [50, 99, 100]).round(3).tolist()
            row = {"client": client, "busy": busy, "answers": len(times), "p50_p99_max_ms": quantiles}
            row["over_10_ms"] = int((times > 10).sum())
            print(json.dumps(row | {"load": os.getloadavg()[0]}), flush=True)
        twin.terminate()
        print(twin.communicate()[0].strip())


if __name__ == "__main__":
    main()
