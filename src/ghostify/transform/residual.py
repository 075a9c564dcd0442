"""Convolutions whose maps are added to their block's own input."""

import torch
from torch import Tensor, nn

from ghostify.modes import evaluating
from ghostify.transform.blocks import watching_outputs

# Of the mean square of what a block adds to its input: what rounding leaves unexplained lies far below.
TOLERANCE = 1e-6


@torch.no_grad()
def residual_gain(model: nn.Module, block: str, conv: str, x: Tensor) -> Tensor | None:
    """What each map of a convolution is multiplied by before it is added to its block's own input.

    Told from what the block computes, whatever norm lies in between: wherever its output is not 0, output less input
    is a straight line of the map. So it holds of sums with a ReLU behind them and of sums without.

    Args:
        block: Name of the module with one tensor in and one out.
        conv: Name of the convolution within.
        x: The block's input ``[batch, channels, height, width]``.
    Returns:
        ``[channels]``, of either sign, 0 for a map that shows nowhere; None where the block is no such sum.
    """
    seen: list[Tensor] = []
    part = model.get_submodule(block)
    with evaluating(part), watching_outputs(model, [conv], lambda name, maps: seen.append(maps.clone())):
        output = part(x.clone())
    if len(seen) != 1 or not x.shape == seen[0].shape == output.shape:
        return None
    shows = by_channel(output) != 0
    maps, added = (by_channel(y).double().where(shows, 0.0) for y in (seen[0], output - x))
    count = shows.sum(1, keepdim=True).clamp_min(1)
    maps = (maps - maps.sum(1, keepdim=True) / count).where(shows, 0.0)
    varied = (added - added.sum(1, keepdim=True) / count).where(shows, 0.0)
    gain = (maps * varied).sum(1) / maps.square().sum(1).clamp_min(1e-30)
    unexplained = (varied - gain[:, None] * maps).square().sum()
    return gain.to(x.dtype) if unexplained <= TOLERANCE * added.square().sum() else None


def by_channel(x: Tensor) -> Tensor:
    """``[batch, channels, height, width]`` as ``[channels, samples]``."""
    return x.transpose(0, 1).flatten(1)
