"""Pointwise ghosts: output channels as 1×1 combinations of those that are computed (a low-rank convolution)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from scipy.linalg import qr
from torch import Tensor

from ghostify.changes.change import Described, OutputChange, refuse_unless
from ghostify.changes.layer import Convolution, Sizes
from ghostify.fitting.least_squares import complement, share_explained
from ghostify.fitting.moments import Moments
from ghostify.fitting.samples import LayerSamples, set_
from ghostify.fitting.trial import Trial
from ghostify.layers import GhostConv2d
from ghostify.layers.arguments import ghost_arguments

# The least share of computed channels: fewer explain too little.
LEAST_INTRINSIC = 0.25


@dataclass(frozen=True)
class PointwiseGhosts(OutputChange):
    """Few channels are computed; the others are combinations of all of these."""

    kind = "pointwise ghosts"
    layers: ClassVar[Described] = {GhostConv2d: ghost_arguments}
    kept: int
    ghosted: int
    dropped: int = 0

    def __post_init__(self) -> None:
        refuse_unless(
            min(self.kept, self.ghosted, self.dropped + 1) >= 1, self, "at least 1 channel kept and 1 ghosted"
        )

    @classmethod
    def offered(cls, layer: Convolution, sizes: Sizes) -> Iterable[Self]:
        channels, per_channel = layer.out_channels, layer.in_channels * layer.kernel_area
        for kept in sizes.of(channels):
            cheaper = kept * per_channel + (channels - kept) * kept < channels * per_channel
            if kept >= LEAST_INTRINSIC * channels and cheaper:
                yield cls(kept, channels - kept)

    @property
    def macs_per_ghost(self) -> int:
        return self.kept

    def fit_(self, layer: GhostConv2d, samples: LayerSamples) -> float | None:
        found = fit_pointwise(samples.moments, samples.filters, samples.gain, self.kept)
        others = complement(found.kept, len(samples.prior))
        assert layer.cheap is not None
        assert layer.order is not None
        set_(layer.primary, found.filters, found.bias)
        set_(layer.cheap, found.combinations, found.combination_bias)
        device = samples.prior.device
        layer.order[found.kept] = torch.arange(self.kept, device=device)
        layer.order[others] = self.kept + torch.arange(self.ghosted, device=device)
        return found.explained

    def output_error(self, trial: Trial, layer: Convolution) -> float:
        # One convolution gives the same as its first filters and their combinations, and is at hand already.
        samples = trial.samples(layer.name)
        ghosts = fit_pointwise(samples.moments, samples.filters, samples.gain, self.kept)
        filters = torch.empty_like(samples.filters)
        filters[ghosts.kept] = ghosts.filters
        filters[complement(ghosts.kept, len(filters))] = ghosts.combinations @ ghosts.filters
        return trial.error_with_filters(layer.name, samples.with_bias(filters))


@dataclass(frozen=True)
class FewFilters:
    """Filters of some output channels, and combinations that make the others.

    Args:
        kept: Indices of the channels that the filters make, ascending.
        filters: ``[kept, inputs]``.
        bias: ``[kept]``.
        combinations: ``[others, kept]``, the others ascending.
        combination_bias: ``[others]``.
        explained: Share of the others' variance that their combinations give, at most 1.
    """

    kept: Tensor
    filters: Tensor
    bias: Tensor
    combinations: Tensor
    combination_bias: Tensor
    explained: float


def fit_pointwise(found: Moments, fitted: Tensor, gain: Tensor, kept: int) -> FewFilters:
    """The best filters of rank ``kept`` (reduced-rank regression, Izenman 1975).

    The fit of all filters is projected on the leading directions of its outputs. Any ``kept`` independent rows of the
    result combine to the rest; the rows are chosen by pivoting.

    Args:
        fitted: Filters of all channels, by ``fit_filters``, ``[outputs, inputs]``.
        gain: Weight of an error in each channel, ``[outputs]``, at least 0.
    """
    gain = gain.to(fitted)
    gain = gain.clamp_min(1e-3 * gain.max().clamp_min(1e-30))  # none is 0: they are divisors
    weighted = gain[:, None] * fitted
    directions = torch.linalg.eigh(weighted @ found.xx_times(weighted.T)).eigenvectors[:, -kept:]  # [outputs, kept]
    pivots = qr(directions.T.cpu().numpy(), mode="r", pivoting=True)[1]
    chosen = torch.as_tensor(np.sort(pivots[:kept]).astype(np.int64), device=fitted.device)
    others = complement(chosen, len(fitted))
    basis = directions[chosen]  # [kept, kept]
    filters = basis @ (directions.T @ weighted) / gain[chosen, None]
    combinations = torch.linalg.solve(basis.T, directions[others].T).T * gain[chosen] / gain[others, None]
    made = combinations @ filters
    error = (
        found.tt.diagonal()[others] - 2 * (made * found.tx[others]).sum(1) + (found.xx_times(made.T).T * made).sum(1)
    )
    return FewFilters(
        kept=chosen,
        filters=filters,
        bias=found.t_mean[chosen] - filters @ found.x_mean,
        combinations=combinations,
        combination_bias=found.t_mean[others] - combinations @ found.t_mean[chosen],
        explained=share_explained(error, found.tt.diagonal()[others]),
    )
