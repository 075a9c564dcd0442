"""A residual block removed, as a kind of change: plans hardly choose it, so it is none of the project's own."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import nn

from ghostify.changes.change import BlockChange, Described, Fitted, refuse_unless
from ghostify.changes.layer import ResidualBlock, Sizes
from ghostify.fitting.samples import SumSamples


@dataclass(frozen=True)
class Remove(BlockChange):
    """Nothing in the place of a residual block; the blocks behind it make up for what they lack.

    Whole blocks lose least where images are few: Wang and Wu 2023, arXiv:2202.07861.
    """

    kind = "remove"
    layers: ClassVar[Described] = {nn.Identity: lambda layer: {}, nn.ReLU: lambda layer: {}}
    channels: int

    def __post_init__(self) -> None:
        refuse_unless(self.channels >= 1, self, "at least 1 channel")

    @classmethod
    def offered(cls, block: ResidualBlock, sizes: Sizes) -> Iterable[Self]:
        yield cls(block.channels)

    @property
    def ghosted(self) -> int:
        return 0

    def untrained(self) -> nn.Module:
        return nn.Identity()

    def fit(self, samples: SumSamples) -> Fitted:
        below = any(bool((batch.inputs < 0).any()) for batch in samples.batches())
        return Fitted(nn.ReLU() if samples.sum.relu and below else nn.Identity())
