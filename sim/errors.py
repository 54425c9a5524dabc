"""The error for invalid requests to the simulation."""


class InvalidValue(ValueError):
    """An invalid request or value; the one-line message says why, and what would be valid."""
