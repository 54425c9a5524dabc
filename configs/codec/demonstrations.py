"""Demonstrations of the simulated SO-101: its scripted expert picks up a cube, as joint targets over time."""

from contextlib import suppress

import numpy as np

from worldmodel.errors import UserError

TASK, RATE_HZ, MOST_S = "so101-pick-lift", 50, 6.0
HOLD_S = 0.3
"""How long an episode continues after the expert is done."""


def demonstrations(seed: int, count: int) -> list[np.ndarray]:
    """Return `count` episodes, each (T, 6) float32: targets in rad of the joints in `sim.so101.joints`, at RATE_HZ.

    The same seed gives the same episodes. Where the expert cannot reach the cube, or not lift it in MOST_S, another
    layout takes its place. Raises ValueError if `count` is below 1.
    """
    if count < 1:
        raise UserError(f"count={count}: at least 1")
    from envs import suite
    from sim.so101 import scene as so101
    from sim.so101.experts import Unreachable

    with suite.quiet():
        env = so101.build(TASK, RATE_HZ, end_on_success=False)
    layouts, episodes = np.random.default_rng(seed), list[np.ndarray]()
    while len(episodes) < count:
        with suppress(Unreachable):
            episode = _episode(env, int(layouts.integers(2**31)))
            if episode is not None:
                episodes.append(episode)
    env.close()
    return episodes


def _episode(env, layout: int) -> np.ndarray | None:
    """Return the targets of one episode, or None if it takes longer than MOST_S. Raises Unreachable."""
    from sim.so101.experts import expert

    env.reset(seed=layout)
    driver = expert(env, TASK, np.random.default_rng(layout))
    targets: list[np.ndarray] = []
    left = round(HOLD_S * RATE_HZ)
    while left:
        left -= driver.done()
        targets.append(driver.target().astype(np.float32))
        env.step(targets[-1])
        if len(targets) > MOST_S * RATE_HZ:
            return None
    return np.array(targets)
