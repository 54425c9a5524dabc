"""Errors and warnings that are reported to the user in one line."""


class UserError(ValueError):
    """Raised for invalid user input; its one-line message says what is wrong and what would be valid."""


class MachineFault(OSError):
    """Raised when something on the machine failed; the same command may succeed at another time."""


def warning_line(message: Warning | str, *_place, **_line) -> str:
    """Format a warning without its place in the code; replaces `warnings.formatwarning` in a command's processes."""
    return f"semagram: {message}\n"
