"""configs/arm/: what stands behind the commands that move an arm, a real one or its twin."""
