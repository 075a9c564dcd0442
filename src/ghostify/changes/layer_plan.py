"""The plan of one convolution, or of one residual block."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ghostify.changes.change import BlockChange, Change, Fitted, InputChange, OutputChange
from ghostify.changes.keep import Keep
from ghostify.changes.layer import Convolution, ResidualBlock
from ghostify.changes.registry import change_from, change_row
from ghostify.errors import InputError
from ghostify.fitting.samples import LayerSamples


@dataclass(frozen=True)
class Channels:
    """A layer's channels, as tables show them.

    Args:
        kept: Output channels that it computes; None for a block that stays.
        ghosted: Output channels that are made of others.
        dropped: Output channels that are gone.
        inputs: Combinations of input channels that it takes; None: the channels themselves.
    """

    kept: int | None
    ghosted: int = 0
    dropped: int = 0
    inputs: int | None = None


@dataclass(frozen=True)
class LayerPlan:
    """The changes of a convolution.

    Args:
        output: Change of its output channels.
        input: Change of its input channels; None: none.
    Example:
        >>> from ghostify.changes import Prune
        >>> LayerPlan(Prune(kept=8, dropped=8)).channels
        16
    """

    output: OutputChange
    input: InputChange | None = None

    def __post_init__(self) -> None:
        if self.input is not None and not self.output.takes_input_changes:
            raise InputError(f"{self}: {self.output.kind} take all input channels")

    @classmethod
    def keep(cls, conv: nn.Conv2d) -> "LayerPlan":
        """A plan that changes nothing."""
        return cls(Keep(conv.out_channels))

    @property
    def words(self) -> str:
        """The changes in words; "" where there are none."""
        return ", ".join(change.kind for change in self.changes)

    @property
    def table(self) -> Channels:
        """Its channels, as tables show them."""
        inputs = None if self.input is None else self.input.in_channels
        return Channels(self.output.kept, self.output.ghosted, self.output.dropped, inputs)

    @property
    def channels(self) -> int:
        """Output channels before the change."""
        return self.output.channels

    @property
    def dropped(self) -> int:
        """Output channels that are gone."""
        return self.output.dropped

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes that change something."""
        return tuple(change for change in (self.output, self.input) if change is not None and change.changes_something)

    def macs(self, layer: Convolution, in_channels: int) -> int:
        """Multiply-adds for one input of ``in_channels`` channels, with those of depthwise convolutions behind it."""
        following = layer.following_macs * (self.output.kept + self.output.ghosted)
        if self.input is None:
            return self.output.macs(layer, in_channels) + following
        return self.input.macs(layer, in_channels) + self.output.macs(layer, self.input.in_channels) + following

    def time_terms(self, layer: Convolution, in_channels: int, vector: int) -> dict[str, float]:
        """The parts of its time for inputs of ``in_channels`` channels."""
        if self.input is None:
            return self.output.time_terms(layer, in_channels, vector)
        own = self.output.time_terms(layer, self.input.in_channels, vector)
        return own | self.input.time_terms(layer, in_channels, vector)

    def untrained(self, conv: nn.Conv2d) -> nn.Module:
        """A layer of the right shape, with arbitrary weights; ``conv`` itself where it is pruned at most."""
        return self.output.untrained(conv, self.input)

    def fit(self, samples: LayerSamples) -> Fitted:
        """The layer, fitted by least squares."""
        return self.output.fit(samples, self.input)

    def row(self) -> dict[str, Any]:
        """Its line in a plan file."""
        return {"output": change_row(self.output)} | ({} if self.input is None else {"input": change_row(self.input)})


@dataclass(frozen=True)
class BlockPlan:
    """The change of a residual block as a whole.

    Args:
        change: The change; None: the block stays, and its convolutions have plans of their own.
    """

    change: BlockChange | None = None

    @property
    def words(self) -> str:
        """The change in words; "" where there is none."""
        return "" if self.change is None else self.change.kind

    @property
    def table(self) -> Channels:
        """Its channels, as tables show them."""
        return Channels(None) if self.change is None else Channels(0, self.change.ghosted, self.change.dropped)

    @property
    def dropped(self) -> int:
        """Output channels that are gone: none."""
        return 0

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes that change something."""
        return () if self.change is None else (self.change,)

    def macs(self, block: ResidualBlock, in_channels: int) -> int:
        """Multiply-adds for one input; 0 where the block stays, as its convolutions have their own."""
        return 0 if self.change is None else self.change.macs(block)

    def time_terms(self, block: ResidualBlock, in_channels: int, vector: int) -> dict[str, float]:
        """The parts of its time: a single one, which each change of a block has for itself."""
        return {str(self.change): 1.0}

    def row(self) -> dict[str, Any]:
        """Its line in a plan file."""
        return {"block": None if self.change is None else change_row(self.change)}


AnyPlan = LayerPlan | BlockPlan


def plan_from(row: Any) -> AnyPlan:
    """The plan of a layer that a line of a plan file describes.

    Raises:
        InputError: If it describes none.
    """
    if isinstance(row, Mapping) and row.keys() == {"block"}:
        return BlockPlan(None if row["block"] is None else change_from(row["block"], BlockChange))
    if not isinstance(row, Mapping) or not {"output"} <= row.keys() <= {"output", "input"}:
        raise InputError(f"{row!r}: expected 'output' and perhaps 'input', or 'block'")
    taken = row.get("input")
    return LayerPlan(
        change_from(row["output"], OutputChange), None if taken is None else change_from(taken, InputChange)
    )


def changed_blocks(plans: Mapping[str, AnyPlan]) -> dict[str, BlockChange]:
    """The residual blocks that change as a whole, by name."""
    return {name: plan.change for name, plan in plans.items() if isinstance(plan, BlockPlan) and plan.change}


def inside_changed_block(name: str, plans: Mapping[str, AnyPlan]) -> bool:
    """True if a layer is inside a block that changes as a whole, and so goes."""
    return any(name.startswith(f"{block}.") for block in changed_blocks(plans))


def outside_changed_blocks(plans: Mapping[str, AnyPlan]) -> dict[str, AnyPlan]:
    """A plan without the insides of the blocks that change as a whole, and without blocks that stay."""
    blocks = changed_blocks(plans)
    return {
        name: plan
        for name, plan in plans.items()
        if not inside_changed_block(name, plans) and (name in blocks or isinstance(plan, LayerPlan))
    }
