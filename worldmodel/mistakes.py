"""What is told in one line: a mistake of the user's, a fault of the machine, a warning."""


class Mistake(ValueError):
    """What was asked for, or given, cannot be taken; one line says why, and what would be right."""


class MachineFault(OSError):
    """Something of the machine failed; the same may do at another time."""


def warning_line(message: Warning | str, *_place, **_line) -> str:
    """What `warnings.formatwarning` becomes in a command's processes: without where in the code it came up."""
    return f"semagram: {message}\n"
