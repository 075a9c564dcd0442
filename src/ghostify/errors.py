"""The one kind of error that is the user's to mend, in the words of whoever asked."""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

# What reading a damaged archive raises; the last two where the damage looks like encryption, or like a huge file.
DAMAGED_ARCHIVE = (zipfile.BadZipFile, zlib.error, RuntimeError, OverflowError)

LONGEST = 300  # characters of somebody else's message


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

    Colours are left out, and the end of what is far longer than a sentence, such as one that repeats a file's content.
    Of an error without words it is the name of its class.

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
    if len(found) > LONGEST:
        found = f"{found[:LONGEST]} …"
    return found or (error if isinstance(error, str) else type(error).__name__)


def python_spelling(parameter: str, value: Any = None) -> str:
    """A parameter as Python has it, or one that is set to a value."""
    return parameter if value is None else f"{parameter}={value!r}"


# None from a spelling: whoever asks has no such parameter.
Spelling = Callable[[str, Any], str | None]
SPELLING: ContextVar[Spelling] = ContextVar("SPELLING", default=python_spelling)


@contextmanager
def spelled_by(spelling: Spelling) -> Iterator[None]:
    """Have messages name parameters in another way than Python's, as the command line does."""
    token = SPELLING.set(spelling)
    try:
        yield
    finally:
        SPELLING.reset(token)


def spelled(parameter: str, value: Any = None) -> str:
    """A parameter for a message, as whoever asked spells it: ``target_macs``, or ``--target-macs``.

    Args:
        parameter: Its name in Python.
        value: Value that it has or should have, for ``effort='refined'`` or ``--effort refined``.
    Example:
        >>> spelled("target_macs"), spelled("effort", "refined")
        ('target_macs', "effort='refined'")
        >>> with spelled_by(lambda parameter, value: None):
        ...     spelled("target_macs")
        'target macs'
    """
    spelled = SPELLING.get()(parameter, value)
    if spelled is not None:
        return spelled
    return parameter.replace("_", " ") if value is None else python_spelling(parameter, value)


def offered(parameter: str) -> bool:
    """True if whoever asked can set the parameter, so that a message may advise it."""
    return SPELLING.get()(parameter, None) is not None
