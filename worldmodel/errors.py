"""Errors and warnings that are reported to the user in one line."""


class UserError(ValueError):
    """Raised for invalid user input; its one-line message says what is wrong and what would be valid."""


class MachineFault(OSError):
    """Raised when something on the machine failed; the same command may succeed at another time."""


def warning_line(message: Warning | str, *_place, **_line) -> str:
    """Format a warning without its place in the code; replaces `warnings.formatwarning` in a command's processes."""
    return f"semagram: {message}\n"


OWN = "semagram: your "  # prefix of the note on an error that names the user's own part that raised it
TRYING = "while trying to "  # prefix of the note on an error that names the action that failed with it


def in_one_line(error: BaseException) -> str:
    """Return a line on what ended a loop, and what could not be done after it, by the notes on the error or group."""
    errors = [error, *getattr(error, "exceptions", ())]
    notes = [note for each in errors for note in getattr(each, "__notes__", ()) if note.startswith(TRYING)]
    undone = dict.fromkeys(note.removeprefix(TRYING).partition(":")[0] for note in notes)
    first = errors[isinstance(error, BaseExceptionGroup)]
    line = " ".join(str(first).split()) or type(first).__name__
    return f"{line}; not done: {', '.join(undone)}" if undone else line
