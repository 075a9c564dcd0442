"""Convolutions and residual blocks that may change, described by numbers."""

import math
from dataclasses import dataclass

from ghostify.structure.residual import ResidualSum

# Shares of a layer's channels to which changes reduce them, as they are offered to a plan.
SHARES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)


@dataclass(frozen=True)
class Convolution:
    """A convolution that may change.

    Args:
        name: Module name.
        in_channels: Input channels in the original.
        out_channels: Output channels in the original.
        kernel_area: Kernel height times width.
        pixels: Height times width of its output.
        input_pixels: Height times width of its input.
        stride: Down and right.
        unprunable: Why none of its output channels can be dropped, in a few words; "" where they can.
        producer: The prunable convolution whose channels are its inputs, if there is one.
        absorbers: Layers that take its channels, and change only where some of these go.
        unit: Output channels that can only go together, where a grouped convolution takes them.
        following_macs: Multiply-adds of each output channel in these, and in grouped convolutions between.
        block: The residual block around it that may change as a whole, if there is one.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel_area: int
    pixels: int
    input_pixels: int
    stride: tuple[int, ...]
    unprunable: str = "its channels were not followed"
    producer: str | None = None
    absorbers: tuple[str, ...] = ()
    unit: int = 1
    following_macs: int = 0
    block: str | None = None

    @property
    def prunable(self) -> bool:
        """True if its output channels go to following layers only."""
        return not self.unprunable

    @property
    def shape(self) -> tuple[object, ...]:
        """Sizes that its time depends on: layers with equal ones share prices."""
        return "convolution", self.in_channels, self.out_channels, self.kernel_area, self.stride, self.pixels


@dataclass(frozen=True)
class ResidualBlock:
    """A block that adds the channels of a convolution to its input, and may change as a whole.

    Args:
        name: Module name.
        channels: Input channels, and as many output channels.
        pixels: Height times width of its output.
        macs: Multiply-adds of all its layers, for one input.
        sum: The sum at its end.
    """

    name: str
    channels: int
    pixels: int
    macs: int
    sum: ResidualSum

    block: None = None  # none around it, and
    producer: None = None  # no channels of its input can go

    @property
    def in_channels(self) -> int:
        """Input channels."""
        return self.channels

    @property
    def shape(self) -> tuple[object, ...]:
        """Sizes that its time depends on: blocks with equal ones share times."""
        return "block", self.channels, self.pixels


Layer = Convolution | ResidualBlock


@dataclass(frozen=True)
class Sizes:
    """Numbers of channels that changes may leave.

    Args:
        round_to: Number that kept channels are a multiple of, in layers with at least twice as many.
    """

    round_to: int = 1

    def step(self, channels: int) -> int:
        """The number that a layer's kept channels are a multiple of."""
        return self.round_to if channels >= 2 * self.round_to else 1

    def of(self, channels: int, unit: int = 1) -> list[int]:
        """The numbers of channels of all shares, each once, the largest first.

        Args:
            unit: Channels that stay or go together.
        Example:
            >>> Sizes(4).of(16), Sizes(4).of(48, unit=24)
            ([12, 8, 4], [24])
        """
        step = math.lcm(unit, self.step(channels))
        step = step if channels >= 2 * step else unit
        counts = {max(step, step * round(channels * share / step)) for share in SHARES}
        return sorted((kept for kept in counts if kept < channels), reverse=True)
