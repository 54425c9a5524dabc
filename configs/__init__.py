"""configs/: the command-line interface. The commands, their keys, how keys are checked, and the run folder."""
