"""The one kind of error that is the user's to mend."""

import re
import zipfile
import zlib

# What reading a damaged archive raises; the last two where the damage looks like encryption, or like a huge file.
DAMAGED_ARCHIVE = (zipfile.BadZipFile, zlib.error, RuntimeError, OverflowError)


class InputError(ValueError):
    """Bad input: one line that says what was wrong and what would be right.

    The command line prints it and leaves with status 2; every other exception is a defect of ours.
    """


class OutOfReachError(InputError):
    """A target that no choice reaches.

    Args:
        message: The line for the user.
        limit: The nearest value in reach, in the unit of the target.
    """

    def __init__(self, message: str, limit: float) -> None:
        super().__init__(message)
        self.limit = limit


def first_sentence(error: BaseException | str) -> str:
    """The first line of somebody else's message, and further ones where its sentence goes on there.

    Colours are left out. Of an error without words it is the name of its class.

    Example:
        >>> first_sentence("expected one of:\\n\\n  a,\\n  b.\\nframe 1: main")
        'expected one of: a, b.'
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    found = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        goes_on = found.endswith((":", ",", "(", ";")) or (line[0].islower() and not found.endswith((".", "!", "?")))
        if found and not goes_on:
            break
        found = f"{found} {line}".strip()
    return found or (error if isinstance(error, str) else type(error).__name__)
