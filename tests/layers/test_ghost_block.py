"""A ghost of a whole block is one convolution."""

import pytest
import torch

from ghostify.layers import GhostBlock


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("relu", [False, True])
def test_it_begins_by_passing_its_input_on(kernel_size: int, relu: bool) -> None:
    x = torch.randn(2, 8, 5, 7)
    block = GhostBlock(8, kernel_size, relu)
    assert torch.equal(block(x), x.relu() if relu else x)
    assert sum(p.numel() for p in block.parameters()) == 8 * 8 * kernel_size**2 + 8
