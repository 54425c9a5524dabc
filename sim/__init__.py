"""sim/: MuJoCo scenes, a small arm that demonstrates pick-and-place, and the SO-101's twin behind a serial port."""
