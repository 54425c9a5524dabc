"""The SO-101's joint names, from the base outwards, as used by LeRobot and by every model of the arm."""

GRIPPER = "gripper"
TURNS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
"""The joints that move the arm; the gripper moves only a finger."""
JOINTS = (*TURNS, GRIPPER)
