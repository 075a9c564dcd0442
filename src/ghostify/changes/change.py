"""The base of all changes: where each is offered, what it costs, and how its layer is made."""

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
        explained: Share of the variance of its ghosted channels that it explains; None where it has none.
    """

    layer: nn.Module
    explained: float | None = None


class Change(ABC):
    """One thing that a convolution, or a residual block, can become.

    A subclass is a frozen dataclass whose fields are whole numbers; registered, it is known by its ``kind`` in plan
    files and in everything that is measured. Its layer is of a class with a name of its own, and takes over
    ``requires_grad``; channels that it puts elsewhere than the convolution did, it puts in order itself.
    """

    kind: ClassVar[str]
    # The targets for which a plan offers it without being asked to.
    default_for: ClassVar[frozenset[TargetKind]] = frozenset(("macs", "speedup"))
    # Layers that it puts into a network, and the arguments that make each of them again, for the network's file.
    layers: ClassVar[Described] = {}

    @property
    def changes_something(self) -> bool:
        """True if the layer is another one afterwards."""
        return True

    @property
    def size(self) -> int | None:
        """The number by which changes of its kind form a curve; None where each stands alone."""
        return None

    @property
    def curve(self) -> str:
        """The curve to which its size belongs: one per kind, unless its other numbers matter, too."""
        return self.kind

    def full_size(self, layer: Any) -> int:
        """The size at which nothing is changed."""
        raise NotImplementedError(f"{self.kind} has no size")  # a kind that has one says this, too

    @abstractmethod
    def output_error(self, trial: Trial, layer: Any) -> float:
        """Error of the network's output where this change alone is made, fitted in closed form."""


class OutputChange(Change):
    """How a convolution's output channels are made.

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
        """The changes of this kind that may be worthwhile for a convolution."""

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
        """Multiply-adds per pixel of a ghosted channel."""
        return 0

    @property
    def takes_input_changes(self) -> bool:
        """True if an input change can be made beside this one: where the layer is a ``GhostConv2d`` made here."""
        own = type(self)
        return own.fit is OutputChange.fit and own.untrained is OutputChange.untrained

    def macs(self, layer: Convolution, in_channels: int) -> int:
        """Multiply-adds for one input of ``in_channels`` channels."""
        return (self.kept * in_channels * layer.kernel_area + self.ghosted * self.macs_per_ghost) * layer.pixels

    def time_terms(self, layer: Convolution, in_channels: int, vector: int) -> dict[str, float]:
        """The parts of its time, as shares of the unchanged layer's; layers of one shape share their prices.

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
        """Arguments of the ``GhostConv2d`` that makes these channels."""
        return {"intrinsic": self.kept, "cheap": "pointwise"}

    def untrained(self, conv: nn.Conv2d, input_change: "InputChange | None") -> nn.Module:
        """A layer of the right shape, with arbitrary weights.

        Args:
            conv: The convolution without its dropped channels.
        """
        if not self.ghosted and input_change is None:
            return conv
        more = {} if input_change is None else input_change.layer_arguments()
        return GhostConv2d.like(conv, **self.layer_arguments(), **more).eval()

    def fit(self, samples: LayerSamples, input_change: "InputChange | None" = None) -> Fitted:
        """The layer, fitted by least squares to the target outputs."""
        if not self.ghosted and input_change is None:
            return Fitted(samples.refitted_convolution())
        more = {} if input_change is None else input_change.layer_arguments()
        layer = GhostConv2d.like(samples.conv, **self.layer_arguments(), ordered=self.ghosted > 0, bias=True, **more)
        behind = samples if input_change is None else input_change.fit_(layer, samples)
        explained = self.fit_(layer, behind)
        return Fitted(layer.eval(), explained)

    def fit_(self, layer: GhostConv2d, samples: LayerSamples) -> float | None:
        """Set the weights behind the input change, and return the share explained, as in ``Fitted``."""
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
        """The changes of this kind that may be worthwhile beside an output change."""

    @property
    @abstractmethod
    def in_channels(self) -> int:
        """Input channels of the convolution itself."""

    @abstractmethod
    def macs(self, layer: Convolution, in_channels: int) -> int:
        """Multiply-adds that it adds for one input of ``in_channels`` channels."""

    @abstractmethod
    def time_terms(self, layer: Convolution, in_channels: int, vector: int) -> dict[str, float]:
        """The parts of the time that it adds, as in ``OutputChange``."""

    def full_size(self, layer: Convolution) -> int:
        return layer.in_channels

    @abstractmethod
    def layer_arguments(self) -> dict[str, Any]:
        """Arguments of the ``GhostConv2d`` with this change."""

    @abstractmethod
    def fit_(self, layer: GhostConv2d, samples: LayerSamples) -> LayerSamples:
        """Set the weights in front of the convolution, and return the samples behind them."""


class BlockChange(Change):
    """A layer that replaces a whole residual block.

    Args:
        channels: Input channels, and as many output channels.
    """

    default_for = frozenset(("speedup",))
    channels: int

    @classmethod
    @abstractmethod
    def offered(cls, block: ResidualBlock, sizes: Sizes) -> Iterable[Self]:
        """The changes of this kind that may be worthwhile for a block."""

    @property
    def ghosted(self) -> int:
        """Channels that are made of the block's input."""
        return self.channels

    @property
    def dropped(self) -> int:
        """Output channels that are gone."""
        return self.channels - self.ghosted

    def macs(self, block: ResidualBlock) -> int:
        """Multiply-adds of the layer, for one input."""
        return 0

    @abstractmethod
    def untrained(self) -> nn.Module:
        """A layer of the right shape, with arbitrary weights."""

    @abstractmethod
    def fit(self, samples: SumSamples) -> Fitted:
        """The layer, fitted to the block's sum."""

    def output_error(self, trial: Trial, block: ResidualBlock) -> float:
        return trial.error_with_layer(block.name, self.fit(trial.samples_of_sum(block.name, block.sum)).layer)


def whole_vectors(channels: int, vector: int) -> int:
    """A number of channels, rounded up to whole vectors."""
    return -(-channels // vector) * vector


def refuse_unless(holds: bool, change: Change, expected: str) -> None:
    """Refuse a change whose numbers do not go together."""
    if not holds:
        raise InputError(f"{change}: expected {expected}")
