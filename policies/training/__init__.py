"""Training and evaluation loops: episodes, exploration noise, experts, rollouts."""
