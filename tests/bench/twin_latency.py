"""How soon the twin answers on a busy machine: `python tests/bench/twin_latency.py [seconds] [busy processes]`.

A client reads all six positions at 60 Hz and times each answer, from before it writes to when the last byte has come,
waiting without polling; `busy` processes keep every core occupied meanwhile. Where the user may, the client runs in
real time like the twin, so that its own waiting for a core is not counted; else it is, and the line says so.
"""

import json
import multiprocessing
import os
import select
import sys
import time

import numpy as np

from configs.arm.twin_process import TwinProcess
from robot.ticks import ORDINARY, hurry
from sim.twin.servo import BROADCAST, REGISTERS, SYNC_READ, encode

ASK = encode(BROADCAST, SYNC_READ, bytes([REGISTERS["Present_Position"][0], 2, 1, 2, 3, 4, 5, 6]))
ANSWER = 6 * 8  # bytes
RATE_HZ, PATIENCE_S = 60, 1.0


def burn() -> None:
    """Use a core."""
    while True:
        sum(range(100_000))


def ask(port: int) -> float:
    """Milliseconds until the whole answer has come; infinite if it does not."""
    time.sleep(1 / RATE_HZ)
    began, length = time.perf_counter(), 0
    os.write(port, ASK)
    while length < ANSWER:
        if not select.select([port], [], [], PATIENCE_S)[0]:
            return np.inf
        length += len(os.read(port, ANSWER))
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    """Print one line of JSON for the client as it is, and one for it in real time."""
    seconds, busy = float((sys.argv[1:] or ["20"])[0]), int((sys.argv[2:] or [2 * (os.cpu_count() or 1)])[0])
    twin = TwinProcess()
    port = os.open(twin.port_file.read_text().strip(), os.O_RDWR | os.O_NOCTTY)
    for _ in range(busy):
        multiprocessing.Process(target=burn, daemon=True).start()
    for asks in (False, True):
        client = hurry() if asks else ORDINARY
        times = np.array([ask(port) for _ in range(round(seconds * RATE_HZ))])
        quantiles = np.percentile(times, [50, 99, 100]).round(3).tolist()
        row = {"client": client, "busy": busy, "answers": len(times), "p50_p99_max_ms": quantiles}
        print(json.dumps(row | {"over_10_ms": int((times > 10).sum()), "load": os.getloadavg()[0]}), flush=True)
    os.close(port)
    twin.stop()


if __name__ == "__main__":
    main()
