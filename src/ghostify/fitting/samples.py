"""Samples that a layer is fitted to: what it gets, and what it is to give."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ghostify.fitting.least_squares import fit_filters
from ghostify.fitting.moments import Moments, MomentSums, patches
from ghostify.structure.residual import ResidualSum

# The largest kernel of what may stand in a residual block's place: it decides how many samples are enough.
LARGEST_BLOCK_KERNEL = 3


@dataclass(frozen=True)
class SampleBatch:
    """Some pixels of a batch of images.

    Args:
        inputs: The layer's input, ``[batch, channels, height, width]``.
        targets: Its wanted output at the pixels, ``[batch · pixels, channels]``.
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
        conv: As it is now: without dropped channels, its own and those of its input.
        batches: Gives the samples, each time anew.
        gain: Weight of an error in each output channel.
        moments: Of patches of its input and of the targets.
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
        """The same samples behind something that stands in front of the convolution."""
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
        """The same convolution with fitted filters, and a bias even if it had none: what was fitted needs one."""
        fitted = copy.deepcopy(self.conv)
        fitted.bias = nn.Parameter(torch.zeros_like(fitted.weight[:, 0, 0, 0]), self.conv.weight.requires_grad)
        self.set_filters_(fitted)
        return fitted


@torch.no_grad()
def sample_convolution(
    conv: nn.Conv2d, batches: Batches, gain: Tensor | None = None, moments: Moments | None = None
) -> LayerSamples:
    """The samples of a convolution, their moments added up where they are not known."""
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
    """Samples of a residual block: what it gets, and its sum before a ReLU.

    Args:
        sum: How the block comes to its output.
        batches: Gives the samples, each time anew.
    """

    sum: ResidualSum
    batches: Batches

    def moments(self, conv: nn.Conv2d) -> Moments:
        """Moments for filters that see what ``conv`` sees of the block's input."""
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
