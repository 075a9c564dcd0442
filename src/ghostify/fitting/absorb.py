"""Layers that do not change absorb what they are to lose: channels that go become combinations of those that stay."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sklearn.covariance import oas
from torch import Tensor, nn

from ghostify.fitting.least_squares import complement, lifted, ridge_of, solve_positive
from ghostify.structure.channels import by_input

# Samples that are kept: more change little, and the estimate takes a product of them all.
MOST_SAMPLES = 4096


@dataclass(frozen=True)
class Taken:
    """Statistics of the channels that a layer takes, in float64.

    Args:
        covariance: ``[channels, channels]``.
        products: Mean products of each two, not less their means, shrunk towards a multiple of the identity as suits
            their number (oracle approximating shrinkage, Chen et al. 2010, arXiv:0907.4698): a gate has one sample for
            each image.
    """

    covariance: Tensor
    products: Tensor

    @classmethod
    def of(cls, samples: Sequence[Tensor]) -> "Taken":
        """The statistics of samples ``[samples, channels]``, batch by batch."""
        rows = torch.cat(list(samples)).double()
        products, _ = oas(rows.cpu().numpy(), assume_centered=True)
        centred = rows - rows.mean(0)
        return cls(centred.T @ centred / len(rows), torch.from_numpy(products).to(rows.device))


def channel_samples(layer: nn.Module, x: Tensor, channels: int, most: float) -> Tensor:
    """Some of the channels that a layer takes, ``[samples, channels]``.

    Args:
        x: Its input: of a convolution ``[batch, channels, height, width]``; of a linear layer ``[..., inputs]``, where
            a channel may be several inputs, flattened.
        most: About as many samples.
    """
    if isinstance(layer, nn.Linear):
        x = x.reshape(-1, x.shape[-1])
    seen = x.reshape(len(x), channels, -1)
    rows = seen.transpose(1, 2).flatten(0, 1)
    return rows[:: max(1, int(len(rows) // max(1, most)))]


def absorbed(layer: nn.Module, rows: Tensor, channels: int, products: Tensor) -> Tensor:
    """A layer's weights ``[outputs, channels, area]`` where some channels stay, and 0 for the others.

    What it computed of a channel that goes, it computes of the combination of those that stay that comes nearest.

    Args:
        rows: Indices of those that stay.
        products: See ``Taken``.
    """
    weights = by_input(layer, channels).detach().double()
    gone = complement(rows, channels)
    staying = lifted(products[rows][:, rows], ridge_of(products))  # of maps that are all 0, too
    combinations = solve_positive(staying, products[rows][:, gone])  # [staying, going]
    left = torch.zeros_like(weights)
    left[:, rows] = weights[:, rows] + torch.einsum("oga,sg->osa", weights[:, gone], combinations)
    return left


def as_layer_has(layer: nn.Module, weights: Tensor) -> Tensor:
    """Weights ``[outputs, channels, area]`` in the shape and type of the layer's own."""
    own = layer.get_parameter("weight")
    if isinstance(layer, nn.ConvTranspose2d):
        weights = weights.transpose(0, 1)
    return weights.reshape(own.shape).to(own)
