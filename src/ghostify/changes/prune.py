"""Pruning: output channels go, and with them the weights that following layers have for them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ghostify.changes.change import OutputChange, refuse_unless
from ghostify.changes.layer import Convolution, Sizes
from ghostify.fitting.trial import Trial


@dataclass(frozen=True)
class Prune(OutputChange):
    """Channels are dropped; those stay from which the following layers can best compute their outputs."""

    kind = "prune"
    kept: int
    dropped: int

    def __post_init__(self) -> None:
        refuse_unless(self.kept >= 1 and self.dropped >= 1, self, "at least 1 channel kept and 1 dropped")

    @classmethod
    def offered(cls, layer: Convolution, sizes: Sizes) -> Iterable[Self]:
        if layer.prunable:
            yield from (cls(kept, layer.out_channels - kept) for kept in sizes.of(layer.out_channels, layer.unit))

    def output_error(self, trial: Trial, layer: Convolution) -> float:
        return trial.error_without_channels(layer.name, self.kept, layer.unit)
