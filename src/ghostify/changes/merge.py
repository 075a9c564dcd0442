"""Merged inputs: near-copies among a convolution's input channels are merged by a 1×1 convolution in front."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ghostify.changes.change import Described, InputChange, OutputChange, refuse_unless, whole_vectors
from ghostify.changes.layer import Convolution, Sizes
from ghostify.fitting.least_squares import MergedInputs, fit_filters, merge_inputs
from ghostify.fitting.samples import LayerSamples
from ghostify.fitting.trial import Trial
from ghostify.layers import GhostConv2d
from ghostify.layers.arguments import ghost_arguments

# A convolution that takes fewer channels has no near-copies among them.
FEWEST_CHANNELS = 8


@dataclass(frozen=True)
class MergeInputs(InputChange):
    """The convolution takes combinations of its input channels: its filters become low-rank along these.

    Args:
        rank: How many combinations.
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
