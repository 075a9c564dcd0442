"""The one kind of error that is the user's to mend."""

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
