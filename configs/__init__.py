"""configs/: what a user types. The commands, the keys they take, how keys are checked, and the folder a run leaves."""
