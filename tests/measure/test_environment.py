"""What is recorded beside a figure."""

import pytest

from ghostify.measure import environment


def ticking(gaps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by these gaps, over and over."""
    now, turn = 0.0, 0

    def clock() -> float:
        nonlocal now, turn
        now, turn = now + gaps[turn % len(gaps)], turn + 1
        return now

    monkeypatch.setattr(environment.time, "perf_counter", clock)


def test_time_given_to_others_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ticking([1e-5], monkeypatch)
    assert environment.core_share(seconds=0.3) == 1
    ticking([1e-5] * 1000 + [1e-2], monkeypatch)  # half of the time, in gaps of 10 ms
    assert environment.core_share(seconds=0.3) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("share", "words"), [(1.0, ""), (0.4, "for 40% of the time")])
def test_a_sentence_warns_of_a_machine_that_is_not_quiet(share: float, words: str) -> None:
    sentence = environment.disturbance({"core_share": share})
    assert words in sentence
    assert bool(sentence) == bool(words)
