"""semagram-train as a benchmark's worker: if the benchmark is killed, it saves a checkpoint and ends (Linux).

`python -m configs.suites.worker <process id of the benchmark> <arguments of semagram-train>`
"""

import signal
import sys

from configs.train import main
from envs.die_with_parent import follow

if __name__ == "__main__":
    follow(int(sys.argv.pop(1)), signal.SIGTERM)
    main()
