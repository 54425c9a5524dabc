"""The loop of training and evaluation: episodes, exploration noise, experts, rollouts."""
