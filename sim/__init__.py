"""MuJoCo scenes, a small arm that demonstrates pick-and-place, and a twin of the SO-101 behind a serial port."""
