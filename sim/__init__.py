"""MuJoCo: scenes and kinematics of the SO-101, fast rendering, domain randomisation, a twin of the arm's hardware."""


class InvalidValue(ValueError):
    """An invalid request or value; the one-line message says why, and what would be valid."""
