"""Six tiny runs whose numbers may change only on purpose: SHA-256 of their metrics and of their evaluations' returns.

`python tests/test_golden.py` computes them and prints them as JSON; `... write` replaces tests/golden.json. They hold
on one thread, without compiling, for arithmetic as in `PINNED`; `probe` and `frame` tell whether a machine has it.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden.json"
PINNED = {
    **{"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2,STRICT", "DNNL_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"},
    **{"MUJOCO_GL": "egl", "HF_HUB_OFFLINE": "1"},
}
TINY = (
    *("model.latent=16", "model.group=4", "model.width=16", "model.bins=11", "model.precision=fp32"),
    *("learning.batch_size=8", "learning.horizon=2", "compile=false", "threads=1", "video=false"),
    *("planner.samples=8", "planner.policy_samples=2", "planner.elites=4", "planner.horizon=2"),
    *("seed_steps=60", "evaluation.episodes=2", "evaluation.every=300", "checkpoint.every=150"),
    "task.max_control_steps=40",
)
RUNS = {
    "state": ("task=cartpole-swingup", "steps=640"),
    "camera": ("task=cartpole-swingup", "senses=[state,images.main]", "image_size=16", "steps=320"),
    "language": ("task=multi", "task.names=[walker-stand,walker-walk]", "senses=[state,language]", "steps=320"),
    "demonstrations": (
        *("task=so101-touch", "demonstrations=2", "expert_takeover_prob=0.02"),
        *("seed_steps=20", "steps=200"),
    ),
    "environments": ("task=reacher-easy", "envs=4", "steps=640"),
    "joined": ("task=cheetah-run", "token=line2", "steps=320"),
}
"""The keys of each run beside TINY. The first stops at half its steps, and is resumed from there."""


def probe() -> str:
    """Hash results of the arithmetic that a run is made of: matrix products, elementary functions, simulated steps."""
    import mujoco
    import numpy as np
    import torch

    torch.set_num_threads(1)
    x = torch.linspace(-3, 3, 96 * 64).view(96, 64)
    parts = [x @ x.T, torch.tanh(x), torch.exp(x), x.softmax(-1), x.var(1), (x[:1] @ x.T[:, :7])]
    parts.append(torch.randn(64, generator=torch.Generator().manual_seed(0)))
    swing = "<mujoco><worldbody><body><joint axis='0 1 0'/><geom size='.1' pos='.3 0 .1'/></body></worldbody></mujoco>"
    model = mujoco.MjModel.from_xml_string(swing)
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, 500)
    return _sha(b"".join(p.numpy().tobytes() for p in parts) + np.concatenate([data.qpos, data.qvel]).tobytes())


def frame() -> str:
    """Hash a rendered frame; "" where nothing renders."""
    try:
        from dm_control import suite

        return _sha(suite.load("cartpole", "swingup", {"random": 0}).physics.render(16, 16, camera_id=0).tobytes())
    except Exception as error:  # whatever a machine without a renderer raises
        print(f"no frame: {error}", file=sys.stderr)
        return ""


def run(name: str, folder: Path) -> dict[str, str]:
    """Train as `RUNS[name]` says; return the hashes of the rows of metrics.csv and of the evaluated returns."""
    from configs.runs import parts
    from configs.train import train
    from envs.make import make_vector

    # Neither decides a number: processes for environments, and how long a decision takes.
    parts.make_vector = partial(make_vector, processes=False)
    path = folder / name
    if name == "state":
        train([*TINY, *RUNS[name], "steps=320"], path)
        summary = train([f"resume={path}", "steps=640"])
    else:
        summary = train([*TINY, *RUNS[name]], path)
    rows = (path / "metrics.csv").read_bytes().partition(b"\n")[2]
    return {"metrics": _sha(rows), "returns": _sha(json.dumps(summary["returns"]).encode())}


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _record() -> dict:
    with tempfile.TemporaryDirectory() as folder:
        seen = frame()
        names = [name for name in RUNS if seen or name != "camera"]
        return {"probe": probe(), "frame": seen, "runs": {name: run(name, Path(folder)) for name in names}}


@pytest.fixture(scope="module")
def found():
    """What this machine computes."""
    paths = os.pathsep.join(p for p in (str(GOLDEN.parents[1]), os.environ.get("PYTHONPATH")) if p)
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | PINNED | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_gives_the_numbers_it_gave(name, found):
    golden = json.loads(GOLDEN.read_text())
    if found["probe"] != golden["probe"]:
        pytest.skip("this machine's arithmetic is not the one that golden.json was made with")
    if name == "camera" and found["frame"] != golden["frame"]:
        pytest.skip("this machine renders other frames than those that golden.json was made with")
    assert found["runs"][name] == golden["runs"][name]


if __name__ == "__main__":
    record = _record()
    if sys.argv[1:] == ["write"]:
        GOLDEN.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))
