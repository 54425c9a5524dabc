"""Semagram in one flat module: train, load, act, plan, film, and register what is your own.

import semagram

semagram.train(task="walker-walk", steps=100_000)
agent = semagram.load("runs/last")
env = semagram.make_env("walker-walk")
"""

from policies.noise import Noise
from worldmodel.losses import LossInputs
from worldmodel.mppi import Plan, fit, mppi, rollout
from worldmodel.registry import register
from worldmodel.replay import Replay, sample_starts, sample_windows, window_at

__all__ = [
    "LossInputs",
    "Noise",
    "Plan",
    "Replay",
    "fit",
    "mppi",
    "register",
    "rollout",
    "sample_starts",
    "sample_windows",
    "window_at",
]
