"""Means and covariances of a convolution's inputs and target outputs, added up batch by batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghostify.layers import PaddedConv2d

# Samples that a least-squares fit gets at least, per unknown of one filter and in all: more pixels of the same
# images change the solution less than other images would.
SAMPLES_PER_UNKNOWN, LEAST_SAMPLES = 20, 50_000
PANEL = 128  # columns of a product of two matrices at once
# With so few samples per input, systems of equations are solved with an unknown for each sample.
FEW_SAMPLES = 0.25


@dataclass(frozen=True)
class Moments:
    """Means and covariances of inputs x and target outputs t, in float64.

    Args:
        x_mean: ``[inputs]``.
        t_mean: ``[outputs]``.
        xx: Covariance of the inputs, ``[inputs, inputs]``.
        tx: Covariance of the outputs with the inputs, ``[outputs, inputs]``.
        tt: Covariance of the outputs, ``[outputs, outputs]``.
        rows: Where samples are few, x and t less their means, over the root of their number: ``[samples, inputs]`` and
            ``[samples, outputs]``.
    """

    x_mean: Tensor
    t_mean: Tensor
    xx: Tensor
    tx: Tensor
    tt: Tensor
    rows: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of_rows(cls, x_mean: Tensor, t_mean: Tensor, x: Tensor, t: Tensor) -> "Moments":
        """The moments of few samples, from what are then their ``rows``."""
        return cls(x_mean, t_mean, x.T @ x, t.T @ x, t.T @ t, (x, t))

    def xx_times(self, right: Tensor) -> Tensor:
        """The inputs' covariance times a matrix ``[inputs, columns]``."""
        if self.rows is None:
            return self.xx @ right
        return self.rows[0].T @ (self.rows[0] @ right)

    def of_inputs(self, chosen: Tensor) -> "Moments":
        """The moments for some of the inputs."""
        rows = None if self.rows is None else (self.rows[0][:, chosen], self.rows[1])
        return Moments(self.x_mean[chosen], self.t_mean, self.xx[chosen][:, chosen], self.tx[:, chosen], self.tt, rows)

    def of_combinations(self, combine: Callable[[Tensor], Tensor]) -> "Moments":
        """The moments for linear combinations of the inputs.

        Args:
            combine: Function that makes them: ``[inputs, columns]`` → ``[combinations, columns]``.
        """
        x_mean = combine(self.x_mean[:, None])[:, 0]
        if self.rows is not None:
            return Moments.of_rows(x_mean, self.t_mean, combine(self.rows[0].T).T, self.rows[1])
        return Moments(x_mean, self.t_mean, combine(combine(self.xx).T), combine(self.tx.T).T, self.tt)


class MomentSums:
    """Adds up batches of samples; only sums are kept.

    Example:
        >>> sums = MomentSums()
        >>> sums.add(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [6.0]]))
        >>> found = sums.moments()
        >>> found.t_mean.item(), found.xx.item(), found.tx.item()
        (4.0, 1.0, 2.0)
    """

    def __init__(self) -> None:
        self.samples = 0
        self.few: list[Tensor] = []  # themselves, as long as they are few

    def add(self, x: Tensor, t: Tensor) -> None:
        """Add samples: ``x`` is ``[samples, inputs]``, ``t`` is ``[samples, outputs]``."""
        both = at_least_float32(torch.cat([x, t], 1))
        if not self.samples:
            self.inputs = x.shape[1]
            # Products of differences from about the mean lose no digits to a large mean.
            self.shift = both.mean(0)
            self.sum = torch.zeros(both.shape[1], dtype=torch.float64, device=x.device)
            self.products: Tensor | None = None
        both = both - self.shift
        self.sum += both.sum(0, dtype=torch.float64)
        self.samples += len(both)
        self.few.append(both)
        if self.samples > FEW_SAMPLES * self.inputs:
            self.multiply()

    def multiply(self) -> None:
        """Add up the products of the samples that are at hand."""
        if self.products is None:
            size = (len(self.sum), len(self.sum))
            self.products = torch.zeros(size, dtype=torch.float64, device=self.sum.device)
        for both in self.few:
            for first in range(0, both.shape[1], PANEL):  # what lies above the diagonal repeats what lies below
                panel = slice(first, first + PANEL)
                self.products[first:, panel] += both[:, first:].T @ both[:, panel]
        self.few = []

    def moments(self) -> Moments:
        mean, n = self.sum / self.samples, self.inputs
        centre = mean + self.shift
        if self.products is None:
            rows = (torch.cat(self.few) - mean) / self.samples**0.5
            return Moments.of_rows(centre[:n], centre[n:], rows[:, :n], rows[:, n:])
        for first in range(0, len(mean), PANEL):
            panel, rest = slice(first, first + PANEL), slice(first + PANEL, None)
            self.products[panel, rest] = self.products[rest, panel].T
        covariance = torch.addr(self.products / self.samples, mean, mean, alpha=-1)
        return Moments(centre[:n], centre[n:], covariance[:n, :n], covariance[n:, :n], covariance[n:, n:])


def mean_over_kernel(covariance: Tensor, channels: int) -> Tensor:
    """Covariance of channels ``[channels, channels]`` from that of patches ``[channels · area, channels · area]``."""
    parts = (channels, len(covariance) // channels)
    return covariance.unflatten(0, parts).unflatten(2, parts).diagonal(dim1=1, dim2=3).mean(-1)


@dataclass(frozen=True)
class FilterMoments:
    """Moments for filters of single channels: of each one's patches x, with target channels t, in float64.

    Args:
        x_mean: ``[channels, area]``.
        t_mean: ``[targets]``.
        xx: Covariances of kernel positions, ``[channels, area, area]``.
        tx: Covariances of targets with kernel positions, ``[channels, targets, area]``.
        t_variance: ``[targets]``.
    """

    x_mean: Tensor
    t_mean: Tensor
    xx: Tensor
    tx: Tensor
    t_variance: Tensor


class FilterSums:
    """Adds up batches of samples for ``FilterMoments``."""

    def __init__(self) -> None:
        self.samples = 0

    def add(self, x: Tensor, t: Tensor) -> None:
        """Add samples: ``x`` is ``[samples, channels, area]``, ``t`` is ``[samples, targets]``."""
        x, t = at_least_float32(x), at_least_float32(t)
        if not self.samples:
            self.x_shift, self.t_shift = x.mean(0), t.mean(0)
            self.sums: list[Tensor | float] = [0.0] * 5
        x, t = x - self.x_shift, t - self.t_shift
        parts = (
            x.sum(0),
            t.sum(0),
            torch.einsum("smi,smj->mij", x, x),
            (t.T @ x.flatten(1)).unflatten(1, x.shape[1:]).transpose(0, 1),
            (t * t).sum(0),
        )
        self.sums = [total + part.double() for total, part in zip(self.sums, parts, strict=True)]
        self.samples += len(x)

    def moments(self) -> FilterMoments:
        x, t, xx, tx, tt = (torch.as_tensor(total) / self.samples for total in self.sums)
        return FilterMoments(
            x_mean=x + self.x_shift,
            t_mean=t + self.t_shift,
            xx=xx - x[:, :, None] * x[:, None, :],
            tx=tx - t[None, :, None] * x[:, None, :],
            t_variance=tt - t * t,
        )


def at_least_float32(x: Tensor) -> Tensor:
    """A tensor in float32, or in its own type where that is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def samples_per_image(pixels: int, inputs: int, images: int) -> int:
    """Number of output pixels to take of each image, enough to fit filters of ``inputs`` inputs."""
    enough = max(LEAST_SAMPLES, SAMPLES_PER_UNKNOWN * inputs)
    return min(pixels, -(-enough // images))


def patches(conv: nn.Conv2d, x: Tensor, pixels: Tensor) -> Tensor:
    """The inputs from which a convolution without groups computes some of its output pixels.

    Args:
        x: ``[batch, in_channels, height, width]``.
        pixels: Indices into the flattened output ``height' · width'``.
    Returns:
        ``[batch · pixels, in_channels · kernel height · kernel width]``, in the order of ``conv.weight``.
    Example:
        >>> conv, x = nn.Conv2d(2, 3, 3, padding=1, stride=2, bias=False), torch.randn(4, 2, 5, 7)
        >>> seen = patches(conv, x, torch.tensor([11]))
        >>> torch.allclose(seen @ conv.weight.flatten(1).T, conv(x)[:, :, 2, 3], atol=1e-5)
        True
    """
    if isinstance(conv, PaddedConv2d):
        padded = conv.padded(x)
    elif conv.padding_mode == "zeros":
        padded = F.pad(x, zeros_around(conv))
    else:
        padded = F.pad(x, conv._reversed_padding_repeated_twice, conv.padding_mode)
    return windows(padded, pixels, conv.kernel_size, conv.stride, conv.dilation).flatten(0, 1).flatten(1)


def zeros_around(conv: nn.Conv2d) -> list[int]:
    """The zeros that PyTorch's forward pads now, last dimension first: somebody may have set other padding since."""
    sides: list[int] = []
    for axis in (1, 0):
        if isinstance(conv.padding, str):
            total = conv.dilation[axis] * (conv.kernel_size[axis] - 1) if conv.padding == "same" else 0
            sides += [total // 2, total - total // 2]
        else:
            sides += [int(conv.padding[axis])] * 2
    return sides


def windows(
    x: Tensor,
    pixels: Tensor,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...] = (1, 1),
    dilation: tuple[int, ...] = (1, 1),
) -> Tensor:
    """The inputs of filters at some output pixels, from padded maps; those of other pixels are never copied.

    Args:
        x: ``[batch, channels, height, width]``.
        pixels: Indices into the flattened output.
    Returns:
        ``[batch, pixels, channels, kernel height, kernel width]``.
    """
    width = (x.shape[3] - dilation[1] * (kernel_size[1] - 1) - 1) // stride[1] + 1
    first = (pixels // width * stride[0], pixels % width * stride[1])  # rows and columns of the windows' corners
    offsets = [d * torch.arange(k, device=x.device) for k, d in zip(kernel_size, dilation, strict=True)]
    rows, columns = first[0][:, None, None] + offsets[0][:, None], first[1][:, None, None] + offsets[1]
    # All channels of a pixel at once: they lie side by side in channels last.
    return x.permute(0, 2, 3, 1)[:, rows, columns].permute(0, 1, 4, 2, 3)


def maps_at(maps: Tensor, pixels: Tensor) -> Tensor:
    """``[batch, channels, height, width]`` at some pixels as ``[batch · pixels, channels]``."""
    return maps.flatten(2)[:, :, pixels].transpose(1, 2).flatten(0, 1)
