"""The statistics of a comparison; never the clock."""

import numpy as np
import pytest
import torch
from torch import nn

from ghostify import InputError, compare, create_model
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


def test_compare_gives_networks_threads_and_gradients_back_as_they_were() -> None:
    a, b = create_model("tiny:Tiny"), create_model("tiny:Tiny").eval()
    threads = torch.get_num_threads()
    found = compare(a, b, torch.zeros(2, 3, 8, 8), blocks=6, block_ms=1)
    assert (found.blocks, found.threads, found.engine) == (6, 1, "eager")
    assert found.ratio_low <= found.ratio <= found.ratio_high
    assert a.training
    assert not b.training
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_an_unknown_engine_and_too_few_blocks_are_refused() -> None:
    layer = nn.Identity()
    with pytest.raises(InputError, match="expected one of eager"):
        compare(layer, layer, torch.zeros(1), engine="tensorrt")
    with pytest.raises(InputError, match="at least 1 and 6"):
        compare(layer, layer, torch.zeros(1), blocks=2)
