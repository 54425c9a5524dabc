"""Runs the official TD-MPC2 from a checkout, on a CPU. Executed in its own Python environment, never imported.

    python tdmpc2_launcher.py <checkout> train task=walker-walk seed=1 steps=100000 out=<folder> parent=<process id>
    python tdmpc2_launcher.py <checkout> serve task=walker-walk seed=1 parent=<process id>

The checkout is not modified. TD-MPC2 is hard-coded for CUDA: as its modules are imported, `cuda:0` in their source is
replaced by `cpu`, and Adam's `capturable`, which only CUDA supports, is turned off. `train` runs its own OnlineTrainer
with its own settings (5M parameters) and writes metrics.csv and summary.json as semagram-train does; torch.compile is
off, since with it an update on a CPU takes 6 times longer and the compiled plan crashes. `serve` reads JSON lines from
stdin and answers each on stdout: {"time": "update" | "plan" | "decision", "count": n} with {"seconds": [n numbers]},
and {"tell": "cost"} with {"gflop": {"update": ..., "plan": ...}, "parameters": ...}.
"""

import ctypes
import importlib.machinery
import json
import os
import signal
import sys
import time
import types
from importlib.metadata import version
from pathlib import Path

CHANGES = {"cuda:0": "cpu", "capturable=True": "capturable=False"}
REPEAT = 2  # environment steps per decision (TD-MPC2's action repeat)
EPISODES = 10
PR_SET_PDEATHSIG = 1


class Changed(importlib.machinery.SourceFileLoader):
    """Imports a module with CHANGES applied to its source; bytecode is neither read nor written."""

    def get_code(self, fullname):
        """Compile the module from its changed source."""
        path = self.get_filename(fullname)
        source = self.get_data(path).decode()
        for old, new in CHANGES.items():
            source = source.replace(old, new)
        return self.source_to_code(source, path)


def open_checkout(root: Path) -> None:
    """Make the checkout's modules importable, with CHANGES applied."""

    def hook(path: str):
        if not Path(path).is_relative_to(root):
            raise ImportError
        return importlib.machinery.FileFinder(path, (Changed, [".py"]))

    sys.path_hooks.insert(0, hook)
    sys.path[0] = str(root)


def assemble(root: Path, task: str, seed: int, decisions: int, out: Path):
    """Return TD-MPC2's config, environment, agent and buffer."""
    import hydra
    import torch
    from omegaconf import DictConfig, OmegaConf

    torch.cuda.mem_get_info = lambda device=None: (0, 0)  # its buffer asks for this to choose its device
    torch.set_float32_matmul_precision("high")
    hydra.utils.get_original_cwd = lambda: str(out)
    from common.buffer import Buffer
    from common.parser import parse_cfg
    from common.seed import set_seed
    from tdmpc2 import TDMPC2

    from envs import make_env  # type: ignore[attr-defined]  # the checkout's own `envs`

    config = OmegaConf.load(root / "config.yaml")
    assert isinstance(config, DictConfig)
    del config["defaults"]
    chosen = {"task": task, "seed": seed, "steps": decisions, "model_size": 5, "compile": False, "save_video": False}
    config = parse_cfg(OmegaConf.merge(config, chosen))
    set_seed(seed)
    env = make_env(config)
    return config, env, TDMPC2(config), Buffer(config)


class Log:
    """Replaces TD-MPC2's logger: writes the training returns to metrics.csv."""

    def __init__(self, path: Path):
        self.path = path
        path.write_text("env_steps,episode_return,eval_return,eval_std\n")

    def log(self, metrics: dict, category: str) -> None:
        """Append a row for a training episode; ignore other categories."""
        if category == "train":
            self.row(metrics["step"] * REPEAT, float(metrics["episode_reward"]), "", "")

    def row(self, *cells) -> None:
        """Append a row of cells."""
        with open(self.path, "a") as file:
            file.write(",".join(map(str, cells)) + "\n")

    def finish(self, agent) -> None:
        """Do nothing: every row is already written."""


def play(env, agent) -> list[float]:
    """Play EPISODES episodes without exploration and return their returns."""
    returns = []
    for _ in range(EPISODES):
        observation, done, total, first = env.reset(), False, 0.0, True
        while not done:
            observation, reward, done, _ = env.step(agent.act(observation, t0=first, eval_mode=True))
            total, first = total + float(reward), False
        returns.append(total)
    return returns


def train(root: Path, task: str, seed: int, steps: int, out: Path) -> None:
    """Train for `steps` environment steps, evaluate, and write metrics.csv and summary.json to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    config, env, agent, buffer = assemble(root, task, seed, steps // REPEAT, out)
    import numpy as np
    from trainer.online_trainer import OnlineTrainer

    log = Log(out / "metrics.csv")
    trainer = OnlineTrainer(cfg=config, env=env, agent=agent, buffer=buffer, logger=log)
    trainer.eval = dict  # skip evaluations, which would take hours, until the end
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    planned = play(env, agent)
    config.mpc = False
    alone = play(env, agent)
    config.mpc = True
    log.row(steps, "", float(np.mean(planned)), float(np.std(planned)))
    stopwatch = Stopwatch(config, env, agent, buffer)
    pace = stopwatch.time("plan", 20)
    cost = stopwatch.cost()
    result = {
        "task": task,
        "seed": seed,
        "env_steps": steps,
        "return_mean": round(float(np.mean(planned)), 3),
        "return_std": round(float(np.std(planned)), 3),
        "episodes": EPISODES,
        "policy_return_mean": round(float(np.mean(alone)), 3),
        "returns": [round(value, 3) for value in planned],
        "train_seconds": round(seconds, 1),
        "env_steps_per_second": round(steps / seconds, 3),
        "gflop_per_control_step": round(sum(cost["gflop"].values()), 3),
        "decisions_per_second": round(len(pace) / sum(pace), 3),
        "parameters": cost["parameters"],
        "device": "cpu",
        "versions": {name: version(name) for name in ("torch", "tensordict", "torchrl", "numpy", "mujoco")},
    }
    aside = out / ".summary.json"
    aside.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(aside, out / "summary.json")


class Stopwatch:
    """Times updates, plans and whole decisions; the buffer must hold episodes."""

    def __init__(self, config, env, agent, buffer):
        self.env, self.agent, self.buffer = env, agent, buffer
        from trainer.online_trainer import OnlineTrainer

        self.trainer = OnlineTrainer(cfg=config, env=env, agent=agent, buffer=buffer, logger=None)
        self.observation = env.reset()

    def fill(self, episodes: int) -> None:
        """Add episodes of random actions to the buffer."""
        import torch

        for _ in range(episodes):
            steps, done = [self.trainer.to_td(self.env.reset())], False
            while not done:
                action = self.env.rand_act()
                observation, reward, done, info = self.env.step(action)
                steps.append(self.trainer.to_td(observation, action, reward, info["terminated"]))
            self.buffer.add(torch.cat(steps))
        self.observation = self.env.reset()

    def time(self, what: str, count: int) -> list[float]:
        """Time `count` repetitions of `what`: "update", "plan" or "decision". Returns the seconds of each."""
        work = {"update": self._update, "plan": self._plan, "decision": self._decision}[what]
        seconds = []
        for _ in range(count):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
        return seconds

    def cost(self) -> dict:
        """Return the GFLOP of an update and of a plan (matrix products only), and the number of parameters."""
        gflop = {"update": round(_gflop(self._update), 3), "plan": round(_gflop(self._plan), 3)}
        return {"gflop": gflop, "parameters": self.agent.model.total_params}

    def _update(self):
        self.agent.update(self.buffer)

    def _plan(self):
        return self.agent.act(self.observation)

    def _decision(self):
        action = self._plan()
        self.observation, reward, done, info = self.env.step(action)
        self.trainer.to_td(self.observation, action, reward, info["terminated"])
        self._update()
        if done:
            self.observation = self.env.reset()


def _gflop(work) -> float:
    """Count the GFLOP of the matrix products that `work` runs.

    PyTorch's FlopCounterMode cannot be used: it fails on a TensorDict in a backward pass.
    """
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counter(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if count := flop_registry.get(function._overloadpacket):
                self.total += count(*args, **(kwargs or {}), out_val=out)
            return out

    with Counter() as counter:
        work()
    return counter.total / 1e9


def serve(root: Path, task: str, seed: int) -> None:
    """Answer requests until stdin is closed."""
    answers, sys.stdout = sys.stdout, sys.stderr  # keep TD-MPC2's own prints out of the answers
    stopwatch = Stopwatch(*assemble(root, task, seed, 10_000, Path.cwd()))
    stopwatch.fill(2)
    for line in sys.stdin:
        asked = json.loads(line)
        seconds = stopwatch.time(asked["time"], asked["count"]) if "time" in asked else None
        print(json.dumps({"seconds": seconds} if seconds else stopwatch.cost()), file=answers, flush=True)


def main() -> None:
    """Run `train` or `serve` as the command line says."""
    checkout, command, *pairs = sys.argv[1:]
    keys = types.SimpleNamespace(**dict(pair.split("=", 1) for pair in pairs))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # die with the parent: there is nothing to save
        if os.getppid() != int(keys.parent):
            sys.exit(1)
    os.environ["LAZY_LEGACY_OP"] = "0"
    import mujoco  # noqa: F401  before MUJOCO_GL=disabled, which is for dm_control and which MuJoCo rejects

    os.environ["MUJOCO_GL"] = "disabled"
    root = (Path(checkout) / "tdmpc2").resolve()
    open_checkout(root)
    if command == "train":
        train(root, keys.task, int(keys.seed), int(keys.steps), Path(keys.out).resolve())
    else:
        serve(root, keys.task, int(keys.seed))


if __name__ == "__main__":
    main()
