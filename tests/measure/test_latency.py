"""The statistics of a comparison; never the clock."""

import numpy as np

from ghostify.measure.latency import summarise


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
    assert noisy.verdict().endswith("not measurably different")
    slower = summarise([10.0] * 8, [20.0] * 8)
    assert slower.different
    assert slower.verdict().endswith("2.00 times as slow")
