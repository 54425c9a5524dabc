"""Runs the official TD-MPC2 from a checkout of it, on a CPU. Executed in an environment of its own, never imported.

    python tdmpc2_launcher.py <checkout> train task=walker-walk seed=1 steps=100000 out=<folder> parent=<process id>
    python tdmpc2_launcher.py <checkout> serve task=walker-walk seed=1 parent=<process id>

The checkout is left as it is. It needs CUDA by its own word: while its modules are imported, `cuda:0` in their source
becomes `cpu`, and Adam's `capturable`, which only CUDA has, is off. `train` runs its own OnlineTrainer with its own
settings (5M parameters) and leaves metrics.csv and summary.json as semagram-train does; torch.compile is off, since
with it an update on a CPU takes 6 times longer and the compiled plan crashes. `serve` answers a JSON line on standard
input, {"time": "update" | "plan" | "decision", "count": n}, with one on standard output, {"seconds": [n numbers]},
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
REPEAT = 2  # environment steps in one of its decisions
EPISODES = 10
PR_SET_PDEATHSIG = 1


class Changed(importlib.machinery.SourceFileLoader):
    """Imports a module with CHANGES made in its source; no bytecode is read or written."""

    def get_code(self, fullname):
        """The module's code."""
        path = self.get_filename(fullname)
        source = self.get_data(path).decode()
        for old, new in CHANGES.items():
            source = source.replace(old, new)
        return self.source_to_code(source, path)


def open_checkout(root: Path) -> None:
    """Make the checkout's modules importable, changed."""

    def hook(path: str):
        if not Path(path).is_relative_to(root):
            raise ImportError
        return importlib.machinery.FileFinder(path, (Changed, [".py"]))

    sys.path_hooks.insert(0, hook)
    sys.path[0] = str(root)


def assemble(root: Path, task: str, seed: int, decisions: int, out: Path):
    """Its config, environment, agent and buffer."""
    import hydra
    import torch
    from omegaconf import OmegaConf

    torch.cuda.mem_get_info = lambda: (0, 0)  # it asks before it chooses where its buffer lives
    torch.set_float32_matmul_precision("high")
    hydra.utils.get_original_cwd = lambda: str(out)
    from common.buffer import Buffer
    from common.parser import parse_cfg
    from common.seed import set_seed
    from tdmpc2 import TDMPC2

    from envs import make_env  # its own

    config = OmegaConf.load(root / "config.yaml")
    del config["defaults"]
    chosen = {"task": task, "seed": seed, "steps": decisions, "model_size": 5, "compile": False, "save_video": False}
    config = parse_cfg(OmegaConf.merge(config, chosen))
    set_seed(seed)
    env = make_env(config)
    return config, env, TDMPC2(config), Buffer(config)


class Log:
    """In the place of its logger: writes the training returns to metrics.csv."""

    def __init__(self, path: Path):
        self.path = path
        path.write_text("env_steps,episode_return,eval_return,eval_std\n")

    def log(self, metrics: dict, category: str) -> None:
        """Add a row."""
        if category == "train":
            self.row(metrics["step"] * REPEAT, float(metrics["episode_reward"]), "", "")

    def row(self, *cells) -> None:
        """Add a row of cells."""
        with open(self.path, "a") as file:
            file.write(",".join(map(str, cells)) + "\n")

    def finish(self, agent) -> None:
        """Nothing is left to do."""


def play(env, agent) -> list[float]:
    """Returns of whole episodes without exploration."""
    returns = []
    for _ in range(EPISODES):
        observation, done, total, first = env.reset(), False, 0.0, True
        while not done:
            observation, reward, done, _ = env.step(agent.act(observation, t0=first, eval_mode=True))
            total, first = total + float(reward), False
        returns.append(total)
    return returns


def train(root: Path, task: str, seed: int, steps: int, out: Path) -> None:
    """Train it and leave metrics.csv and summary.json in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    config, env, agent, buffer = assemble(root, task, seed, steps // REPEAT, out)
    import numpy as np
    from trainer.online_trainer import OnlineTrainer

    log = Log(out / "metrics.csv")
    trainer = OnlineTrainer(cfg=config, env=env, agent=agent, buffer=buffer, logger=log)
    trainer.eval = dict  # evaluations would take hours: only at the end
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
    """Times its update, its plan and whole decisions, on a buffer that holds episodes."""

    def __init__(self, config, env, agent, buffer):
        self.env, self.agent, self.buffer = env, agent, buffer
        from trainer.online_trainer import OnlineTrainer

        self.trainer = OnlineTrainer(cfg=config, env=env, agent=agent, buffer=buffer, logger=None)
        self.observation = env.reset()

    def fill(self, episodes: int) -> None:
        """Put random episodes into the buffer."""
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
        """Seconds that each of `count` repetitions took."""
        work = {"update": self._update, "plan": self._plan, "decision": self._decision}[what]
        seconds = []
        for _ in range(count):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
        return seconds

    def cost(self) -> dict:
        """Arithmetic of its matrix products, and its parameters."""
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
    """GFLOP of the matrix products that `work` runs. (FlopCounterMode itself trips over a TensorDict in a backward.)"""
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
    """Answer questions until standard input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # it prints what it likes
    stopwatch = Stopwatch(*assemble(root, task, seed, 10_000, Path.cwd()))
    stopwatch.fill(2)
    for line in sys.stdin:
        asked = json.loads(line)
        seconds = stopwatch.time(asked["time"], asked["count"]) if "time" in asked else None
        print(json.dumps({"seconds": seconds} if seconds else stopwatch.cost()), file=answers, flush=True)


def main() -> None:
    """Run it."""
    checkout, command, *pairs = sys.argv[1:]
    keys = types.SimpleNamespace(**dict(pair.split("=", 1) for pair in pairs))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it has nothing to save
        if os.getppid() != int(keys.parent):
            sys.exit(1)
    os.environ["LAZY_LEGACY_OP"] = "0"
    import mujoco  # noqa: F401  before dm_control is told that there are no graphics, which MuJoCo won't hear

    os.environ["MUJOCO_GL"] = "disabled"
    root = (Path(checkout) / "tdmpc2").resolve()
    open_checkout(root)
    if command == "train":
        train(root, keys.task, int(keys.seed), int(keys.steps), Path(keys.out).resolve())
    else:
        serve(root, keys.task, int(keys.seed))


if __name__ == "__main__":
    main()
