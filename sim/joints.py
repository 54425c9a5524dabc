"""The SO-101's joints by name, from the base on: LeRobot's names, and those of every model of the arm."""

GRIPPER = "gripper"
TURNS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
"""Those that turn the arm; the gripper moves only a finger."""
JOINTS = (*TURNS, GRIPPER)
