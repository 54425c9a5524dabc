"""policies/: tokens become actions. Curves, the acting agent, the training loop and its checkpoints."""
