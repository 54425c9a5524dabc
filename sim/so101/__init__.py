"""The SO-101 in MuJoCo: scenes, tasks, experts, kinematics."""
