"""Code that does not end is given up; what it gives or raises is handed on."""

import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from ghostify.timelimit import TimeLimitError, within


def endless() -> None:
    while True:
        pass


def endless_after_an_error() -> None:
    with suppress(BaseException):  # as Python does in a finaliser
        endless()
    endless()


def failing() -> None:
    raise KeyError("own")


def test_what_ends_is_handed_on() -> None:
    assert within(10.0, lambda: "done") == "done"
    assert within(10.0, lambda: None) is None
    with pytest.raises(KeyError, match="own"):
        within(10.0, failing)


@pytest.mark.parametrize("work", [endless, endless_after_an_error])
def test_what_does_not_end_is_ended(work: Callable[[], None]) -> None:
    before = threading.active_count()
    with pytest.raises(TimeLimitError, match=r"not done within 0\.2 seconds"):
        within(0.2, work)
    assert threading.active_count() == before
