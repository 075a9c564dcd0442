"""A residual block as one convolution of its input."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import nn

from ghostify.changes.change import BlockChange, Described, Fitted, refuse_unless
from ghostify.changes.layer import ResidualBlock, Sizes
from ghostify.fitting.least_squares import fit_filters, share_explained
from ghostify.fitting.samples import SumSamples, set_
from ghostify.layers import GhostBlock
from ghostify.layers.arguments import ghost_block_arguments

KERNELS = (1, 3)
# The most multiply-adds that it may cost, as a share of the block's.
MOST_MACS = 0.5


@dataclass(frozen=True)
class OneConvolution(BlockChange):
    """A 1×1 or 3×3 convolution in the place of a residual block, its sum included.

    Args:
        channels: Input channels, and as many output channels.
        kernel_size: 1 or 3.
    """

    kind = "one convolution"
    layers: ClassVar[Described] = {GhostBlock: ghost_block_arguments}
    channels: int
    kernel_size: int = 1

    def __post_init__(self) -> None:
        refuse_unless(self.channels >= 1, self, "at least 1 channel")
        refuse_unless(self.kernel_size in KERNELS, self, f"a kernel_size of {' or '.join(map(str, KERNELS))}")

    @classmethod
    def offered(cls, block: ResidualBlock, sizes: Sizes) -> Iterable[Self]:
        found = (cls(block.channels, kernel_size) for kernel_size in KERNELS)
        yield from (change for change in found if change.macs(block) <= MOST_MACS * block.macs)

    def macs(self, block: ResidualBlock) -> int:
        return self.channels**2 * self.kernel_size**2 * block.pixels

    def untrained(self) -> nn.Module:
        # With or without a ReLU behind it, the time is the same.
        layer = GhostBlock(self.channels, self.kernel_size).eval()
        layer.cheap.reset_parameters()  # an exported file stores equal tensors once, and layers are known by theirs
        return layer

    def fit(self, samples: SumSamples) -> Fitted:
        layer = GhostBlock(self.channels, self.kernel_size, samples.sum.relu).to(samples.sum.gain)
        found = samples.moments(layer.cheap)
        filters = fit_filters(found, layer.cheap.weight.flatten(1))
        set_(layer.cheap, filters, found.t_mean - filters @ found.x_mean)
        error = found.tt.diagonal() - 2 * (filters * found.tx).sum(1) + ((filters @ found.xx) * filters).sum(1)
        return Fitted(layer.eval(), share_explained(error, found.tt.diagonal()))
