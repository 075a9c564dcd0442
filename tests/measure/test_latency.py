"""The statistics of a comparison; never the clock."""

import numpy as np
import pytest
import torch

from ghostify.measure.latency import gpu_times_ms, summarise


def test_the_ratio_is_the_median_of_paired_blocks() -> None:
    found = summarise([10.0, 20, 10, 10, 10, 10, 10], [5.0, 10, 5, 5, 50, 5, 5])
    assert found.ratio == 0.5
    assert (found.a_ms, found.b_ms) == (10, 5)


def test_the_interval_covers_the_truth_in_95_of_100_noisy_measurements() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        drift = rng.lognormal(0, 0.5, 30)  # a machine that slows both networks together
        a, b = drift * rng.lognormal(0, 0.1, 30), 0.8 * drift * rng.lognormal(0, 0.1, 30)
        found = summarise(a.tolist(), b.tolist())
        covered += found.ratio_low <= 0.8 <= found.ratio_high
    assert 930 <= covered <= 990  # exact intervals of a median are a little wide: 95.7 % of 30 blocks


def test_an_interval_over_1_is_not_called_a_difference() -> None:
    noisy = summarise([10.0] * 8, [9.0, 11, 9, 11, 9, 11, 9, 11])
    assert not noisy.different
    assert (
        noisy.verdict()
        == "the second is not measurably faster or slower than the first: 1.00 times as fast (0.91–1.11)"
    )


@pytest.mark.parametrize(
    ("least", "median", "most", "sentence"),
    [
        (6.1, 6.25, 6.45, "ghost is 1.60 times as fast as conv (1.55–1.64)"),
        (11.5, 11.61, 11.7, "ghost is 16 % slower than conv (15–17 %)"),
        (10.21, 10.3, 10.44, "ghost is 3.0 % slower than conv (2.1–4.4 %)"),
        (19.0, 20.0, 30.0, "ghost is 2.00 times as slow as conv (1.90–3.00)"),
    ],
)
def test_a_difference_is_said_as_people_say_it(least: float, median: float, most: float, sentence: str) -> None:
    found = summarise([10.0] * 9, [least] * 3 + [median] * 3 + [most] * 3)
    assert found.different
    assert found.verdict("conv", "ghost") == sentence


def test_a_call_on_a_gpu_takes_what_lies_between_its_own_events(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waited = [0.0], []

    class Event:
        """Made on a GPU whose clock the calls move."""

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = now[0]

        def elapsed_time(self, end: "Event") -> float:
            assert waited, "read before the GPU was there"
            return end.at - self.at

    def call() -> None:
        now[0] += 1 + now[0]

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
    assert gpu_times_ms(call, 3) == [1, 2, 4]
    assert len(waited) == 1  # calls follow each other at once
