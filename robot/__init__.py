"""robot/: LeRobot datasets, robots, simulated and real, and the safety gate before them."""
