"""The twin of the SO-101's hardware: servos, bus, faults, behind a port."""
