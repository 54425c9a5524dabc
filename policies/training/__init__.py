"""Training and evaluation loops: episodes, experts, rollouts."""
