"""Samples that a layer is fitted to: inputs and target outputs."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ghostify.fitting.least_squares import fit_filters
from ghostify.fitting.moments import Moments, MomentSums, patches
from ghostify.structure.residual import ResidualSum

# The largest kernel of a layer that may replace a residual block: it decides how many samples are enough.
LARGEST_BLOCK_KERNEL = 3


@dataclass(frozen=True)
class SampleBatch:
    """Some pixels of a batch of images.

    Args:
        inputs: The layer's input, ``[batch, channels, height, width]``.
        targets: Its target output at the pixels, ``[batch · pixels, channels]``.
        pixels: Indices into the flattened output.
    """

    inputs: Tensor
    targets: Tensor
    pixels: Tensor


Batches = Callable[[], Iterable[SampleBatch]]


@dataclass(frozen=True)
class LayerSamples:
    """Samples of a convolution.

    Args:
        conv: The convolution without dropped channels, its own and those of its input.
        batches: Function that computes the samples.
        gain: Weight of an error in each output channel.
        moments: Moments of patches of its input and of the targets.
        prior: Filters ``[outputs, inputs]`` from which a fit departs as little as it must.
    """

    conv: nn.Conv2d
    batches: Batches
    gain: Tensor
    moments: Moments
    prior: Tensor

    @cached_property
    def filters(self) -> Tensor:
        """Filters of all channels, fitted by ridge regression, ``[outputs, inputs]``."""
        return fit_filters(self.moments, self.prior)

    def behind(self, moments: Moments, prior: Tensor) -> "LayerSamples":
        """The samples with another input: behind a layer in front of the convolution."""
        return replace(self, moments=moments, prior=prior)

    def with_bias(self, filters: Tensor) -> tuple[Tensor, Tensor]:
        """Filters, and the biases that go with them."""
        return filters, self.moments.t_mean - filters @ self.moments.x_mean

    @torch.no_grad()
    def set_filters_(self, conv: nn.Conv2d) -> None:
        """Put the fitted filters into a convolution."""
        set_(conv, *self.with_bias(self.filters))

    @torch.no_grad()
    def refitted_convolution(self) -> nn.Conv2d:
        """The convolution with fitted filters, and with a bias even if it had none."""
        fitted = copy.deepcopy(self.conv)
        fitted.bias = nn.Parameter(torch.zeros_like(fitted.weight[:, 0, 0, 0]), self.conv.weight.requires_grad)
        self.set_filters_(fitted)
        return fitted


@torch.no_grad()
def sample_convolution(
    conv: nn.Conv2d, batches: Batches, gain: Tensor | None = None, moments: Moments | None = None
) -> LayerSamples:
    """The samples of a convolution, their moments added up unless they are known."""
    if moments is None:
        sums = MomentSums()
        for batch in batches():
            sums.add(patches(conv, batch.inputs, batch.pixels), batch.targets)
        moments = sums.moments()
    prior = conv.weight.flatten(1)
    gain = torch.ones(len(prior), device=prior.device) if gain is None else gain
    return LayerSamples(conv, batches, gain, moments, prior)


@dataclass(frozen=True)
class SumSamples:
    """Samples of a residual block: its input, and its sum before a ReLU.

    Args:
        sum: The sum at the end of the block.
        batches: Function that computes the samples.
    """

    sum: ResidualSum
    batches: Batches

    def moments(self, conv: nn.Conv2d) -> Moments:
        """Moments for the filters of a convolution of the block's input."""
        sums = MomentSums()
        for batch in self.batches():
            sums.add(patches(conv, batch.inputs, batch.pixels), batch.targets)
        return sums.moments()


@torch.no_grad()
def set_(conv: nn.Conv2d, filters: Tensor, bias: Tensor) -> None:
    """Put filters ``[outputs, inputs]`` and biases into the first channels of a convolution."""
    assert conv.bias is not None
    conv.weight[: len(filters)] = filters.to(conv.weight).reshape(-1, *conv.weight.shape[1:])
    conv.bias[: len(bias)] = bias.to(conv.bias)
