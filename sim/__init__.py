"""MuJoCo scenes, and a twin of the SO-101 behind a serial port."""
