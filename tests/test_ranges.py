"""Laws of the ranges of settings: whoever makes them in code is refused what a command is, in one line.

In a process of its own: in this one types are checked as the tests run, before any setting can answer.
"""

import json
import subprocess
import sys

WRONG = {
    "CodecConfig(ids=8.0)": "ids=8.0: a whole number",
    "CodecConfig(ids='8')": "ids='8': a whole number",
    "CodecConfig(ids=True)": "ids=True: a whole number",
    "CodecConfig(ids=257)": "ids=257: from 1 to 256",
    "PlannerConfig(std='0.5')": "planner.std='0.5': a number",
    "PlannerConfig(std=None)": "planner.std=None: a number",
    "LearningConfig(rho=float('nan'))": "learning.rho=nan: above 0, at most 1",
    "LearningConfig(batch_size=0)": "learning.batch_size=0: from 1 to 65536",
    "CodecConfig(ids=np.int64(4))": "",
    "PlannerConfig(std=np.float32(0.5), horizon=np.int32(3))": "",
    "LearningConfig(learning_rate=1)": "",
}
"""What is made, and why it is refused; empty where it is not."""
MAKE = """
import json, sys
import numpy as np
from policies.codec import CodecConfig
from worldmodel.settings import LearningConfig, PlannerConfig
said = []
for written in json.loads(sys.argv[1]):
    try:
        eval(written)
        said.append("")
    except ValueError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def test_what_is_no_such_number_is_refused_by_its_key_and_numpys_numbers_are_numbers():
    found = subprocess.run(
        [sys.executable, "-c", MAKE, json.dumps([*WRONG])], check=False, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    assert dict(zip(WRONG, json.loads(found.stdout), strict=True)) == WRONG
