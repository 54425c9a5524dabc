"""worldmodel/: tensors only. A latent world model over action tokens, its losses, its replay and its planner."""
