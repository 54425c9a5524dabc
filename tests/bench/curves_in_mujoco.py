"""Plans with MuJoCo itself as the model: are few curves as good as many white sequences, and better than coloured ones?

    python tests/bench/curves_in_mujoco.py [out=docs/results/curves-in-mujoco.csv] [tasks=all] [seeds=5] [samples=8,32]

At every re-plan each parametrisation proposes the same number of action sequences around the last plan, MuJoCo rolls
them out, the planner's own rule (worldmodel.mppi.fit) makes the next plan of them. What differs is the noise:

  white      an independent number for every step (MPPI, Williams et al. 2017)
  coloured   power spectrum 1/f^2 over the plan (iCEM, Pinneri et al. 2020, arXiv 2008.06389, beta = 2)
  order0..3  K control points of a B-spline of that degree

all scaled to the same deviation at every step. Each is run with several deviations; the table takes the best of them
for each (parametrisation, samples) by the mean over all seeds. Resumable: rows already in the file are not run again.
"""

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import torch
from dm_control import suite
from dm_control.utils.rewards import tolerance
from mujoco import rollout

from policies.tokens.splines import design, midpoints
from sim import pushing
from worldmodel.mppi import fit
from worldmodel.settings import PlannerConfig

COLUMNS = ("task", "noise", "samples", "deviation", "seed", "return", "end")
DEVIATIONS = (0.1, 0.3, 0.8)
SPEC = mujoco.mjtState.mjSTATE_FULLPHYSICS


@dataclass(frozen=True)
class Task:
    """`score` gives rewards (N, T) from states (N, T, nstate) at the ends of control steps, sensors and controls."""

    model: mujoco.MjModel
    start: Callable[[int], tuple[np.ndarray, np.ndarray, Callable]]  # seed -> state, first plan (A,), score
    horizon: int  # control steps of a plan
    points: int  # control points of a curve over it
    substeps: int  # physics steps of a control step
    every: int  # control steps between plans
    length: int  # control steps of an episode


def of_suite(domain: str, name: str, score: Callable) -> tuple[mujoco.MjModel, Callable]:
    """A dm_control task's model and `start`."""
    model = suite.load(domain, name).physics.model.ptr

    def start(seed):
        env = suite.load(domain, name, task_kwargs={"random": seed})
        env.reset()
        return env.physics.get_state(SPEC), np.zeros(model.nu), score

    return model, start


def cheetah() -> Task:
    """dm_control's cheetah-run: speed up to 10 m/s."""

    def score(states, sensors, controls):
        return np.clip(sensors[..., 0] / 10, 0, 1)

    return Task(*of_suite("cheetah", "run", score), 40, 5, 1, 4, 200)


def cartpole() -> Task:
    """dm_control's cartpole-swingup, its reward written for many states at once."""

    def score(states, sensors, controls):
        x, angle, rate = states[..., 1], states[..., 2], states[..., 4]
        upright = (np.cos(angle) + 1) / 2
        centred = (1 + tolerance(x, margin=2)) / 2
        small_control = (4 + tolerance(controls[..., 0], margin=1, value_at_margin=0, sigmoid="quadratic")) / 5
        small_rate = (1 + tolerance(rate, margin=5)) / 2
        return upright * small_control * small_rate * centred

    return Task(*of_suite("cartpole", "swingup", score), 60, 6, 1, 4, 400)


def push() -> Task:
    """The small arm pushes a box to a goal: minus ten times its distance in metres, and twice the hand's to the box."""
    model = pushing.model()

    def start(seed):
        problem = pushing.Push.draw(np.random.default_rng(seed))

        def score(states, sensors, controls):
            box = states[..., 6:8]
            return -10 * np.linalg.norm(box - problem.goal, axis=-1) - 2 * hand(states[..., 1:6], box)

        low, high = model.actuator_ctrlrange.T
        return problem.state(), 2 * (problem.joints - low) / (high - low) - 1, score

    return Task(model, start, 20, 5, 10, 2, 60)


def hand(joints: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Distance (...) in metres from the fingertip to the box's middle, over the table; the arm's kinematics by hand."""
    pan, lift, elbow, wrist = (joints[..., i] for i in range(4))
    reach = 0.116 * np.sin(lift) + 0.135 * np.cos(lift + elbow) + 0.12 * np.cos(lift + elbow + wrist)
    height = 0.11 + 0.116 * np.cos(lift) - 0.135 * np.sin(lift + elbow) - 0.12 * np.sin(lift + elbow + wrist)
    place = np.stack([reach * np.cos(pan), reach * np.sin(pan), height], -1)
    return np.linalg.norm(place - np.concatenate([box, np.full((*box.shape[:-1], 1), pushing.BOX_M)], -1), axis=-1)


TASKS = {"cheetah-run": cheetah, "cartpole-swingup": cartpole, "arm-push": push}


def noises(task: Task) -> dict[str, np.ndarray]:
    """What takes independent normal numbers to noise of unit deviation at each of the H steps: matrices (H, K)."""
    h = task.horizon
    frequency = np.fft.rfftfreq(h)
    frequency[0] = frequency[1]
    coloured = np.fft.irfft(np.fft.rfft(np.eye(h), axis=0) / frequency[:, None], h, axis=0)
    maps = {"white": np.eye(h), "coloured": coloured}
    maps |= {f"order{p}": design(midpoints(h), task.points, p) for p in (0, 1, 2, 3)}
    return {name: m / np.sqrt((m**2).sum(1, keepdims=True)) for name, m in maps.items()}


def run(task: Task, shape: np.ndarray, samples: int, deviation: float, seed: int) -> tuple[float, float]:
    """One episode: its return, and its last reward."""
    rng = np.random.default_rng(seed)
    state, first, score = task.start(seed)
    low, high = task.model.actuator_ctrlrange.T
    mean = np.tile(first, (task.horizon, 1))
    config = PlannerConfig(samples=samples, policy_samples=1, elites=max(samples // 4, 2))
    project = shape @ np.linalg.pinv(shape)
    data, total, last = mujoco.MjData(task.model), 0.0, 0.0

    def simulate(actions):
        controls = low + (actions + 1) / 2 * (high - low)
        repeated = np.repeat(controls, task.substeps, 1)
        states, sensors = rollout.rollout(task.model, data, np.tile(state, (len(actions), 1)), repeated)
        ends = slice(task.substeps - 1, None, task.substeps)
        return states[:, ends], score(states[:, ends], sensors[:, ends], controls)

    for _ in range(task.length // task.every):
        noise = shape @ rng.standard_normal((samples, shape.shape[1], len(first)))
        noise[0] = 0
        candidates = np.clip(mean + deviation * noise, -1, 1)
        _, rewards = simulate(candidates)
        tokens = torch.from_numpy(np.moveaxis(candidates, 1, 0)[:, None]).float()
        returns = torch.from_numpy(rewards.sum(1))[None].float()
        mean = fit(tokens, returns, torch.zeros(1, 0), config).tokens[:, 0].double().numpy()
        states, rewards = simulate(mean[None, : task.every])
        state, total, last = states[0, -1], total + rewards.sum(), rewards[0, -1]
        mean = project @ np.concatenate([mean[task.every :], np.repeat(mean[-1:], task.every, 0)])
    return total, last


def main() -> None:
    """Run what is missing, and print the table."""
    keys = {"out": "docs/results/curves-in-mujoco.csv", "tasks": "all", "seeds": "5", "samples": "8,32,128"}
    keys |= dict(pair.split("=", 1) for pair in sys.argv[1:])
    out = Path(keys["out"])
    names = list(TASKS) if keys["tasks"] == "all" else keys["tasks"].split(",")
    done = {tuple(r[c] for c in COLUMNS[:5]): r for r in csv.DictReader(out.open())} if out.exists() else {}
    if not out.exists():
        out.write_text(",".join(COLUMNS) + "\n")
    for name in names:
        task = TASKS[name]()
        for seed in range(int(keys["seeds"])):
            for kind, shape in noises(task).items():
                for samples in map(int, keys["samples"].split(",")):
                    for deviation in DEVIATIONS:
                        key = (name, kind, str(samples), str(deviation), str(seed))
                        if key in done:
                            continue
                        total, last = run(task, shape, samples, deviation, seed)
                        done[key] = dict(zip(COLUMNS, (*key, total, last), strict=True))
                        with out.open("a") as file:
                            file.write(",".join([*key, f"{total:.3f}", f"{last:.4f}"]) + "\n")
            print(f"{name} seed {seed} done", file=sys.stderr)
        table(name, list(done.values()))


def table(name: str, rows: list[dict]) -> None:
    """Mean over seeds and its standard error, by parametrisation and samples, at the best deviation."""
    rows = [row for row in rows if row["task"] == name]
    counts = sorted({int(row["samples"]) for row in rows})
    print(f"\n{name}\n{'':<10}" + "".join(f"{n:>22}" for n in counts))
    for kind in dict.fromkeys(row["noise"] for row in rows):
        cells = []
        for n in counts:
            mine = [r for r in rows if r["noise"] == kind and int(r["samples"]) == n]
            by = {d: [float(r["return"]) for r in mine if float(r["deviation"]) == d] for d in DEVIATIONS}
            best = max((d for d in DEVIATIONS if by[d]), key=lambda d: np.mean(by[d]))
            error = np.std(by[best]) / np.sqrt(max(len(by[best]) - 1, 1))
            cells.append(f"{np.mean(by[best]):.1f} ± {error:.1f} ({best})")
        print(f"{kind:<10}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
