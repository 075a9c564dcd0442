"""The questions that every change answers: where it is offered, what it costs, and how its layer comes about."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from torch import nn

from ghostify.changes.layer import Convolution, ResidualBlock, Sizes
from ghostify.errors import InputError
from ghostify.fitting.samples import LayerSamples, SumSamples
from ghostify.fitting.trial import Trial
from ghostify.layers import GhostConv2d

TargetKind = Literal["macs", "speedup"]
Described = Mapping[type[nn.Module], Callable[[Any], dict[str, Any]]]


@dataclass(frozen=True)
class Fitted:
    """A layer in the place of another one.

    Args:
        layer: In eval mode.
        explained: Share of the variance of the channels that it makes of others; None where it makes none so.
    """

    layer: nn.Module
    explained: float | None = None


class Change(ABC):
    """One thing that a convolution, or a residual block, can become.

    A subclass is a frozen dataclass whose fields are its numbers; registered, it is known by its ``kind`` in plan
    files and in everything that is measured.
    """

    kind: ClassVar[str]
    # The targets for which a plan offers it without being asked to.
    default_for: ClassVar[frozenset[TargetKind]] = frozenset(("macs", "speedup"))
    # Layers that it puts into a network, and what makes each of them again, for the network's file.
    layers: ClassVar[Described] = {}

    @property
    def changes_something(self) -> bool:
        """Whether the layer is another one afterwards."""
        return True

    @property
    def size(self) -> int | None:
        """The number by which changes of its kind form a curve; None where each stands alone."""
        return None

    def full_size(self, layer: Any) -> int:
        """The size at which nothing is changed."""
        raise NotImplementedError(f"{self.kind} is not read off a curve")

    @abstractmethod
    def output_error(self, trial: Trial, layer: Any) -> float:
        """Error of the network's output where this layer alone changes so, fitted in closed form."""


class OutputChange(Change):
    """How the output channels of a convolution come about.

    Args:
        kept: Channels that the convolution computes.
        ghosted: Channels that are made of these.
        dropped: Channels that are gone.
    """

    kept: int
    ghosted: int = 0
    dropped: int = 0

    @classmethod
    @abstractmethod
    def offered(cls, layer: Convolution, sizes: Sizes) -> Iterable[Self]:
        """The changes of this kind that may pay for a convolution."""

    @property
    def channels(self) -> int:
        """Output channels before the change."""
        return self.kept + self.ghosted + self.dropped

    @property
    def size(self) -> int | None:
        return self.kept

    def full_size(self, layer: Convolution) -> int:
        return layer.out_channels

    @property
    def macs_per_ghost(self) -> int:
        """Multiply-adds of a pixel of a channel that is made of others."""
        return 0

    @property
    def takes_input_changes(self) -> bool:
        """Whether the layer can take combinations of its input channels, too."""
        return True

    def macs(self, layer: Convolution, in_channels: int) -> int:
        """Multiply-adds for one input where the convolution takes so many channels."""
        return (self.kept * in_channels * layer.kernel_area + self.ghosted * self.macs_per_ghost) * layer.pixels

    def time_terms(self, layer: Convolution, in_channels: int, vector: int) -> dict[str, float]:
        """The parts of its time, each relative to the whole layer's: all have a price that similar layers share.

        Args:
            vector: Channels that the engine computes at once; it computes whole vectors.
        """
        whole = whole_vectors(layer.out_channels, vector) * layer.in_channels * layer.kernel_area
        return {
            "start": 1.0,
            "convolution": whole_vectors(self.kept, vector) * in_channels * layer.kernel_area / whole,
            "ghosts": whole_vectors(self.ghosted, vector) * self.macs_per_ghost / whole,
            "written": (self.kept + self.ghosted) / layer.out_channels,
        }

    def layer_arguments(self) -> dict[str, Any]:
        """Arguments of the ``GhostConv2d`` that makes the channels so."""
        return {"intrinsic": self.kept, "cheap": "pointwise"}

    def untrained(self, conv: nn.Conv2d, input_change: "InputChange | None") -> nn.Module:
        """The layer's shape, its weights of no use.

        Args:
            conv: Without its dropped channels.
        """
        if not self.ghosted and input_change is None:
            return conv
        more = {} if input_change is None else input_change.layer_arguments()
        return GhostConv2d.like(conv, **self.layer_arguments(), **more).eval()

    def fit(self, samples: LayerSamples, input_change: "InputChange | None" = None) -> Fitted:
        """The layer, fitted by least squares to what the convolution is to give."""
        if not self.ghosted and input_change is None:
            return Fitted(samples.refitted_convolution())
        more = {} if input_change is None else input_change.layer_arguments()
        layer = GhostConv2d.like(samples.conv, **self.layer_arguments(), ordered=self.ghosted > 0, bias=True, **more)
        behind = samples if input_change is None else input_change.fit_(layer, samples)
        explained = self.fit_(layer, behind)
        return Fitted(layer.eval(), explained)

    def fit_(self, layer: GhostConv2d, samples: LayerSamples) -> float | None:
        """Set the weights behind the input change; gives the share of variance as of ``Fitted``."""
        samples.set_filters_(layer.primary)
        return None

    def output_error(self, trial: Trial, layer: Convolution) -> float:
        return trial.error_with_layer(layer.name, self.fit(trial.samples(layer.name)).layer)


class InputChange(Change):
    """How a convolution takes its input channels."""

    default_for = frozenset(("macs",))

    @classmethod
    @abstractmethod
    def offered(cls, layer: Convolution, output: OutputChange, sizes: Sizes) -> Iterable[Self]:
        """The changes of this kind that may pay for a convolution whose output changes so."""

    @property
    @abstractmethod
    def in_channels(self) -> int:
        """Channels that the convolution itself takes."""

    @abstractmethod
    def macs(self, layer: Convolution, in_channels: int) -> int:
        """Multiply-adds that it adds for one input of so many channels."""

    @abstractmethod
    def time_terms(self, layer: Convolution, in_channels: int, vector: int) -> dict[str, float]:
        """As of ``OutputChange``."""

    def full_size(self, layer: Convolution) -> int:
        return layer.in_channels

    @abstractmethod
    def layer_arguments(self) -> dict[str, Any]:
        """Arguments of the ``GhostConv2d`` that takes its input so."""

    @abstractmethod
    def fit_(self, layer: GhostConv2d, samples: LayerSamples) -> LayerSamples:
        """Set the weights of what stands in front of the convolution; gives the samples behind it."""


class BlockChange(Change):
    """What stands in the place of a whole residual block.

    Args:
        channels: In and out.
    """

    default_for = frozenset(("speedup",))
    channels: int

    @classmethod
    @abstractmethod
    def offered(cls, block: ResidualBlock, sizes: Sizes) -> Iterable[Self]:
        """The changes of this kind that may pay for a block."""

    @property
    def ghosted(self) -> int:
        """Channels that are made of the block's input."""
        return self.channels

    @property
    def dropped(self) -> int:
        """Channels of the block's own that are gone."""
        return self.channels - self.ghosted

    def macs(self, block: ResidualBlock) -> int:
        """Multiply-adds of what stands there, for one input."""
        return 0

    @abstractmethod
    def untrained(self) -> nn.Module:
        """The layer's shape, its weights of no use."""

    @abstractmethod
    def fit(self, samples: SumSamples) -> Fitted:
        """The layer, fitted to the block's sum; whether a ReLU follows that, the samples say."""

    def output_error(self, trial: Trial, block: ResidualBlock) -> float:
        return trial.error_with_layer(block.name, self.fit(trial.samples_of_sum(block.name, block.sum)).layer)


def whole_vectors(channels: int, vector: int) -> int:
    """Channels that are computed where whole vectors are."""
    return -(-channels // vector) * vector


def refuse_unless(holds: bool, change: Change, expected: str) -> None:
    """Refuse a change whose numbers do not go together."""
    if not holds:
        raise InputError(f"{change}: expected {expected}")
