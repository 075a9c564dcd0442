"""Peak memory holds at least what it must."""

import sys

import pytest
import torch
from torch import nn

from ghostify.measure.memory import peak_memory_mb


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from Linux's /proc")
def test_it_is_at_least_the_weights_and_the_largest_map_and_not_twice_that() -> None:
    weights_mb, map_mb = 4 * 2000 * 2500 / 1e6, 4 * 2500 * 2000 / 1e6
    peak = peak_memory_mb(nn.Linear(2000, 2500), torch.zeros(2000, 2000))
    assert peak is not None
    assert weights_mb + map_mb < peak < 2 * (weights_mb + map_mb)


def test_a_network_that_cannot_be_handed_to_another_process_has_no_figure() -> None:
    network = nn.Linear(4, 4)
    network.register_forward_hook(lambda module, inputs, output: None)
    assert peak_memory_mb(network, torch.zeros(1, 4)) is None
