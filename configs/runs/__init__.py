"""configs/runs/: training runs, from their keys to their run folder, and evaluations of their checkpoints."""
