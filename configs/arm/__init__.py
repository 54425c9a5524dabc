"""configs/arm/: the implementation of the commands that move an arm, real, twin or simulated."""
