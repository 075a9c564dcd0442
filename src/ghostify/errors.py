"""The one kind of error that is the user's to mend."""


class InputError(ValueError):
    """Bad input: one line that says what was wrong and what would be right.

    The command line prints it and leaves with status 2; every other exception is a defect of ours.
    """


class OutOfReachError(InputError):
    """A target that no choice reaches.

    Args:
        message: As of any bad input.
        limit: What is in reach, in the unit of the target.
    """

    def __init__(self, message: str, limit: float) -> None:
        super().__init__(message)
        self.limit = limit
