"""robot/: LeRobot robots, simulated and real, and the safety gate before them. Empty until the arm arrives."""
