"""A simulated twin of the SO-101's hardware: servos, bus and faults, behind a serial port."""
