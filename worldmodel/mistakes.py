"""What a command tells in one line instead of a traceback: a mistake of the user's, or a fault of the machine."""


class Mistake(ValueError):
    """What was asked for, or given, cannot be taken; one line says why, and what would be right."""


class MachineFault(OSError):
    """Something of the machine failed; the same may do at another time."""
