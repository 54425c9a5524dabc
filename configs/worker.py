"""semagram-train as a benchmark's worker: it saves a checkpoint and ends when the benchmark is killed (Linux).

`python -m configs.worker <process id of the benchmark> <arguments of semagram-train>`
"""

import ctypes
import os
import signal
import sys

from configs.train import main

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent = int(sys.argv.pop(1))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)
    main()
