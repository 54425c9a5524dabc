"""sim/: MuJoCo scenes and a small arm that demonstrates pick-and-place."""
