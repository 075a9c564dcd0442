"""Give up on Python code of others that may never end."""

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Seconds that code which is told to end may take, and how often: Python drops what is raised in a finaliser.
ENDING, TIMES = 1.0, 5


class TimeLimitError(Exception):
    """Code did not end in time."""


class _EndedError(BaseException):
    """Raised in the thread: no ``except Exception`` there may hold it up."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """Call a function in a thread of its own, and end it there when it takes longer.

    Args:
        work: Python code: what never comes back from a library's compiled code cannot be ended, and is left alone.
    Raises:
        TimeLimitError: If it did not end in time; whatever it raises itself, as it is.
    Example:
        >>> within(1.0, lambda: 6 * 7)
        42
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  # handed on below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        thread.join(seconds)
    finally:
        for _ in range(TIMES):
            if thread.is_alive() and thread.ident is not None:  # too late, or the user interrupts
                ended = ctypes.py_object(_EndedError)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ended)
                thread.join(ENDING)
    if results:
        return results[0]
    if errors and not isinstance(errors[0], _EndedError):
        raise errors[0]
    raise TimeLimitError(f"not done within {seconds:g} seconds")
