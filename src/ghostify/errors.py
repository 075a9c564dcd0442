"""The one kind of error that is the user's to mend."""


class InputError(ValueError):
    """Bad input: one line that says what was wrong and what would be right.

    The command line prints it and leaves with status 2; every other exception is a defect of ours.
    """
