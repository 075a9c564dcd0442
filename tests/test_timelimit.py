"""Code that does not end is given up; what it gives or raises is handed on."""

import threading

import pytest

from ghostify.timelimit import TimeLimitError, within


def endless() -> None:
    while True:
        pass


def failing() -> None:
    raise KeyError("own")


def test_what_ends_is_handed_on() -> None:
    assert within(10.0, lambda: "done") == "done"
    assert within(10.0, lambda: None) is None
    with pytest.raises(KeyError, match="own"):
        within(10.0, failing)


def test_what_does_not_end_is_ended() -> None:
    before = threading.active_count()
    with pytest.raises(TimeLimitError, match=r"not done within 0\.2 seconds"):
        within(0.2, endless)
    assert threading.active_count() == before
