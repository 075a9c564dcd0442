"""Merged inputs: near-copies among a convolution's input channels are merged by a 1×1 convolution in front."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ghostify.changes.change import Described, InputChange, OutputChange, refuse_unless, whole_vectors
from ghostify.changes.layer import Convolution, Sizes
from ghostify.fitting.least_squares import fit_filters, lifted, ridge_of, solve_positive
from ghostify.fitting.moments import Moments, mean_over_kernel
from ghostify.fitting.samples import LayerSamples
from ghostify.fitting.trial import Trial
from ghostify.layers import GhostConv2d
from ghostify.layers.arguments import ghost_arguments

# A convolution that takes fewer channels has no near-copies among them.
FEWEST_CHANNELS = 8


@dataclass(frozen=True)
class MergedInputs:
    """Combinations of a convolution's input channels, which it takes instead of these.

    Args:
        combinations: ``[merged, channels]``.
        moments: Moments of patches of the merged channels, ``[merged · area]``.
        prior: Filters of the merged channels that give nearly the old outputs, ``[outputs, merged · area]``.
    """

    combinations: Tensor
    moments: Moments
    prior: Tensor

    def of_all(self, filters: Tensor) -> Tensor:
        """Filters of all channels ``[outputs, channels · area]`` that are equal to ``filters`` of the merged ones."""
        by_channel = filters.unflatten(1, (len(self.combinations), -1))
        return torch.einsum("omp,mi->oip", by_channel, self.combinations).flatten(1)


@dataclass(frozen=True)
class MergeInputs(InputChange):
    """The convolution takes combinations of its input channels: its filters become low-rank.

    Args:
        rank: Number of combinations.
    """

    kind = "merge inputs"
    layers: ClassVar[Described] = {GhostConv2d: ghost_arguments}
    rank: int

    def __post_init__(self) -> None:
        refuse_unless(self.rank >= 1, self, "at least 1 combination")

    @classmethod
    def offered(cls, layer: Convolution, output: OutputChange, sizes: Sizes) -> Iterable[Self]:
        # Merged to m channels, a 1×1 convolution is pointwise ghosts of m.
        if layer.in_channels < FEWEST_CHANNELS or layer.kernel_area == 1:
            return
        computed = output.kept * layer.kernel_area * layer.pixels
        for rank in sizes.of(layer.in_channels):
            if rank * (layer.in_channels * layer.input_pixels + computed) < layer.in_channels * computed:
                yield cls(rank)

    @property
    def size(self) -> int | None:
        return self.rank

    @property
    def in_channels(self) -> int:
        return self.rank

    def macs(self, layer: Convolution, in_channels: int) -> int:
        return self.rank * in_channels * layer.input_pixels

    def time_terms(self, layer: Convolution, in_channels: int, vector: int) -> dict[str, float]:
        whole = whole_vectors(layer.out_channels, vector) * layer.in_channels * layer.kernel_area
        merging = whole_vectors(self.rank, vector) * in_channels * layer.input_pixels / layer.pixels
        return {"start of merging": 1.0, "merging": merging / whole}

    def layer_arguments(self) -> dict[str, Any]:
        return {"merged": self.rank}

    def fit_(self, layer: GhostConv2d, samples: LayerSamples) -> LayerSamples:
        merged = self.merged(samples)
        assert layer.merge is not None
        layer.merge.weight.copy_(merged.combinations[:, :, None, None])
        return samples.behind(merged.moments, merged.prior)

    def output_error(self, trial: Trial, layer: Convolution) -> float:
        # One convolution of all input channels gives the same.
        samples = trial.samples(layer.name)
        merged = self.merged(samples)
        filters = merged.of_all(fit_filters(merged.moments, merged.prior))
        return trial.error_with_filters(layer.name, samples.with_bias(filters))

    def merged(self, samples: LayerSamples) -> MergedInputs:
        """The combinations, fitted to samples."""
        fitted = samples.filters.unflatten(1, (samples.conv.in_channels, -1))
        return merge_inputs(samples.moments, fitted, samples.gain, self.rank)


def merge_inputs(found: Moments, fitted: Tensor, gain: Tensor, merged: int) -> MergedInputs:
    """Combinations of a convolution's input channels from which filters can best compute the target outputs.

    They are the directions of the input that the fitted filters' outputs depend on most: a higher-order singular value
    decomposition (De Lathauwer et al. 2000; of filters, Kim et al. 2016, arXiv:1511.06530) of the filters, weighted by
    their inputs' covariance, which is taken for a product of one of channels and one of kernel positions.

    Args:
        found: Moments of patches ``[channels · area]``.
        fitted: Filters of all channels, by ``fit_filters``, ``[outputs, channels, area]``.
        gain: Weight of an error in each output channel, ``[outputs]``.
        merged: Number of combinations, at most ``channels``.
    """
    channels, area = fitted.shape[1:]
    ridge = ridge_of(found.xx)
    values, vectors = torch.linalg.eigh(lifted(mean_over_kernel(found.xx, channels), ridge))
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    by_position = found.xx.unflatten(0, (channels, area)).unflatten(2, (channels, area))
    of_kernel = lifted(by_position.diagonal(dim1=0, dim2=2).mean(-1), ridge)
    weighted = gain.to(fitted)[:, None, None] * fitted
    effect = torch.einsum("oip,ojp->ij", weighted @ of_kernel, weighted)
    directions = torch.linalg.eigh(root @ effect @ root).eigenvectors[:, -merged:]  # [channels, merged]
    # Uncorrelated and of variance 1, so that all of them learn at the same pace.
    combinations = torch.linalg.solve(root, directions).T

    def merge(rows: Tensor) -> Tensor:  # [channels · area, columns] → [merged · area, columns]
        return (combinations @ rows.reshape(channels, -1)).reshape(merged * area, -1)

    # The filters of the merged inputs whose outputs are nearest to the fitted ones'.
    moments = found.of_combinations(merge)
    lifting = torch.kron(combinations @ combinations.T, ridge * torch.eye(area).to(combinations))
    wanted = found.xx_times(fitted.flatten(1).T) + ridge * fitted.flatten(1).T
    prior = solve_positive(moments.xx + lifting, merge(wanted)).T
    return MergedInputs(combinations, moments, prior)
