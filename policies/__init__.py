"""policies/: from tokens to actions: curves, the acting agent, the training loop and its checkpoints."""
