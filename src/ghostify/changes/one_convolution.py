"""A residual block as one convolution."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ghostify.fitting.least_squares import fit_filters, share_explained
from ghostify.fitting.moments import MomentSums, patches
from ghostify.layers import GhostBlock
from ghostify.structure.residual import ResidualSum


@torch.no_grad()
def fit_ghost_block(
    total: ResidualSum, kernel_size: int, samples: Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]]
) -> tuple[GhostBlock, float]:
    """A ghost of a whole block, fitted to its sums; the share of their variance that it gives.

    Args:
        samples: Gives batches of what it gets, the wanted sums at some pixels ``[batch · pixels, channels]``, these.
    """
    block = GhostBlock(len(total.gain), kernel_size, total.relu).to(total.gain)
    sums = MomentSums()
    for x, t, pixels in samples():
        sums.add(patches(block.cheap, x, pixels), t)
    found = sums.moments()
    filters = fit_filters(found, block.cheap.weight.flatten(1))
    block.cheap.weight.copy_(filters.reshape(block.cheap.weight.shape))
    assert block.cheap.bias is not None
    block.cheap.bias.copy_(found.t_mean - filters @ found.x_mean)
    error = found.tt.diagonal() - 2 * (filters * found.tx).sum(1) + ((filters @ found.xx) * filters).sum(1)
    return block.eval(), share_explained(error, found.tt.diagonal())
