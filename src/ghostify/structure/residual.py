"""Blocks that add the channels of a convolution to their own input."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ghostify.modes import evaluating
from ghostify.structure.blocks import Block, inputs_of, watching_outputs

# Share of the mean square of what a block adds to its input: rounding leaves far less unexplained.
TOLERANCE = 1e-6
FEWEST = 4  # samples of a channel: through two there is always a straight line


@dataclass(frozen=True)
class ResidualSum:
    """The sum at the end of a block: its input, plus an affine function of each channel of a convolution.

    Args:
        conv: Name of the convolution.
        gain: Factor of each channel, ``[channels]``, of either sign; 0 for a channel that shows nowhere.
        offset: Summand of each channel, ``[channels]``.
        relu: True if a ReLU is behind the sum.
    """

    conv: str
    gain: Tensor
    offset: Tensor
    relu: bool

    def of(self, x: Tensor, maps: Tensor) -> Tensor:
        """The sum for an input and the convolution's output, both ``[batch, channels, height, width]``."""
        return x + self.gain[:, None, None] * maps + self.offset[:, None, None]


@torch.no_grad()
def residual_sum(model: nn.Module, block: str, conv: str, x: Tensor) -> ResidualSum | None:
    """The sum of a block's input and the channels of one of its convolutions; None where it ends in no such sum.

    It is found by its values, whatever norm lies in between: wherever the block's output is not 0, output less input is
    an affine function of the channel. So it is found with a ReLU behind it and without.

    Args:
        block: Name of the module with one tensor in and one out.
        conv: Name of the convolution within.
        x: The block's input ``[batch, channels, height, width]``.
    """
    if block == conv:
        return None
    seen: list[Tensor] = []
    part = model.get_submodule(block)
    with evaluating(part), watching_outputs(model, [conv], lambda name, maps: seen.append(maps.clone())):
        output = part(x.clone())
    if len(seen) != 1 or not x.shape == seen[0].shape == output.shape:
        return None
    shows = by_channel(output) != 0
    maps, added = (by_channel(y).double().where(shows, 0.0) for y in (seen[0], output - x))
    count = shows.sum(1, keepdim=True)
    if 2 * count[count >= FEWEST].sum() < count.sum():
        return None
    count = count.clamp_min(1)
    maps_mean, added_mean = maps.sum(1, keepdim=True) / count, added.sum(1, keepdim=True) / count
    maps, varied = (maps - maps_mean).where(shows, 0.0), (added - added_mean).where(shows, 0.0)
    gain = (maps * varied).sum(1) / maps.square().sum(1).clamp_min(1e-30)
    unexplained = (varied - gain[:, None] * maps).square().sum()
    if not unexplained <= TOLERANCE * added.square().sum():
        return None
    offset = (added_mean - gain[:, None] * maps_mean).flatten()
    # A channel that shows nowhere is below 0 everywhere.
    offset = offset.where(shows.any(1), -by_channel(x).amax(1).double())
    return ResidualSum(conv, gain.to(x.dtype), offset.to(x.dtype), relu=bool((~shows).any()))


def by_channel(x: Tensor) -> Tensor:
    """``[batch, channels, height, width]`` as ``[channels, samples]``."""
    return x.transpose(0, 1).flatten(1)


def residual_sums(model: nn.Module, blocks: Iterable[Block], images: Tensor) -> dict[str, ResidualSum]:
    """The sums of those blocks that end in one, by name.

    Args:
        images: A few of the network's inputs ``[batch, channels, height, width]``.
    """
    found = {}
    for block in blocks:
        if block.times > 1:  # it would have a sum for each call
            continue
        (x,) = inputs_of(model, block.name, [images])
        sums = (residual_sum(model, block.name, conv, x) for conv in reversed(block.convs))
        total = next((total for total in sums if total is not None), None)
        if total is not None:
            found[block.name] = total
    return found


@torch.no_grad()
def sums_of(model: nn.Module, block: str, total: ResidualSum, inputs: Sequence[Tensor]) -> Iterator[Tensor]:
    """A block's sums for each batch of its inputs, before the ReLU."""
    part, seen = model.get_submodule(block), list[Tensor]()
    with watching_outputs(model, [total.conv], lambda name, maps: seen.append(maps.clone())):
        for x in inputs:
            with evaluating(part):
                part(x.clone())
            yield total.of(x, seen.pop())
