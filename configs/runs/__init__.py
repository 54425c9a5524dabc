"""configs/runs/: a training run from its keys to its folder, and an evaluation of what it left."""
