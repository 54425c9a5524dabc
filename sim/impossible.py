"""What cannot be asked of the simulation."""


class Impossible(ValueError):
    """What was asked for, or given, cannot be; one line says why, and what would be right."""
