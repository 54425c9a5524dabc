"""A latent world model over action tokens, its losses, its replay and its planner, working on tensors only."""
