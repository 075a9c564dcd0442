"""What becomes of each output map: kept, ghosted or dropped; and whether the input maps are merged."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from ghostify.errors import InputError
from ghostify.layers.ghost_conv import CHEAP_KINDS, Cheap, intrinsic_channels
from ghostify.structure.channels import InnerMaps

PlanCheap = Cheap | Literal["convolution"]
# How a whole residual block's maps are made of its input, and with what kernel.
BLOCK_KERNELS: Mapping[PlanCheap, int] = {"pointwise": 1, "convolution": 3}


@dataclass(frozen=True)
class LayerPlan:
    """How many output maps of a convolution, or of a residual block as a whole, are made how.

    A residual block whose maps are all ghosts is one cheap convolution of its input; those inside are dropped whole.

    Args:
        kept: As before.
        ghosted: From the kept ones; from its input where a block keeps none.
        dropped: Not at all.
        cheap: How the ghosts are made; None: as the conversion says, of a block "pointwise".
        merged: How many combinations of its input maps a convolution takes, whose ghosts are pointwise then; None:
            these maps themselves.
    """

    kept: int
    ghosted: int = 0
    dropped: int = 0
    cheap: PlanCheap | None = None
    merged: int | None = None

    def __post_init__(self) -> None:
        if min(self.kept, self.ghosted, self.dropped) < 0:
            raise InputError(f"{self}: expected no negative number")
        if self.kept == 0 and bool(self.ghosted) == bool(self.dropped):
            raise InputError(f"{self}: expected at least 1 kept map, or all of a block ghosted, or all in it dropped")
        kinds = BLOCK_KERNELS if self.of_block else CHEAP_KINDS
        if self.cheap is not None and self.cheap not in kinds:
            raise InputError(f"cheap is {self.cheap!r}: expected one of {', '.join(kinds)}")
        if self.merged is not None and (self.merged < 1 or not self.kept or self.cheap == "depthwise"):
            raise InputError(
                f"{self}: expected at least 1 merged map, and that of a convolution without depthwise ghosts"
            )

    @property
    def of_block(self) -> bool:
        """Whether it makes ghosts of a whole block's input."""
        return self.kept == 0 and self.ghosted > 0

    def cheap_or(self, default: Cheap) -> Cheap:
        """How a convolution's ghosts are made."""
        if self.cheap is None or self.cheap == "convolution":
            return default if self.merged is None else "pointwise"
        return self.cheap

    @property
    def kernel_size(self) -> int:
        """Of a block's ghosts."""
        return BLOCK_KERNELS[self.cheap or "pointwise"]

    @property
    def maps(self) -> int:
        """Before."""
        return self.kept + self.ghosted + self.dropped


def inside_ghost_block(name: str, plans: Mapping[str, LayerPlan]) -> bool:
    """Whether a layer goes as its whole block becomes a ghost."""
    return any(plan.of_block and name.startswith(f"{block}.") for block, plan in plans.items())


def outside_ghost_blocks(plans: Mapping[str, LayerPlan]) -> dict[str, LayerPlan]:
    """A plan without what it says of the insides of blocks that are ghosts as a whole.

    Example:
        >>> plans = {"a": LayerPlan(0, 8), "a.conv": LayerPlan(0, dropped=8), "b.conv": LayerPlan(8)}
        >>> list(outside_ghost_blocks(plans))
        ['a', 'b.conv']
    """
    return {name: plan for name, plan in plans.items() if not inside_ghost_block(name, plans)}


def uniform_plan(convs: Mapping[str, nn.Conv2d], ratio: float) -> dict[str, LayerPlan]:
    """One map in ``ratio`` is kept, the others are ghosts (Han et al. 2020, arXiv:1911.11907)."""
    kept = {name: intrinsic_channels(conv.out_channels, ratio) for name, conv in convs.items()}
    return {name: LayerPlan(kept[name], conv.out_channels - kept[name]) for name, conv in convs.items()}


def mixed_plan(
    convs: Mapping[str, nn.Conv2d],
    macs: Mapping[str, int],
    inner: Mapping[str, InnerMaps],
    ratio: float,
    round_to: int = 1,
) -> dict[str, LayerPlan]:
    """Inner maps are dropped, others ghosted by combinations, so that the convolutions cost 1 / ``ratio``.

    Of the maps that are not inner, (1 + 1 / ratio) / 2 are kept, or all where combining is not cheaper: a
    ghost saves its producer only, a dropped map its consumers, too. The share of the inner maps that is
    kept follows from the costs.

    Args:
        macs: Multiply-adds before of each convolution, and of the depthwise ones between, which count, too.
        inner: Of the convolutions whose maps can be dropped.
        round_to: Of these a multiple of this number is kept, where they have two or more of it.
    Raises:
        InputError: If too few maps can be dropped for the ratio.
    """
    consumed = {consumer: name for name, maps in inner.items() for consumer in maps.consumers}
    passed = {name: sum(macs.get(follower, 0) for follower in maps.followers) for name, maps in inner.items()}

    def planned(share: float, more: Mapping[str, int] = {}) -> dict[str, LayerPlan]:  # only read
        plans = {}
        for name, conv in convs.items():
            n, per_map = conv.out_channels, conv.weight[0].numel()
            if name in inner:
                step = step_of(n, round_to)
                kept = min(n, step * (max(1, math.floor(n * share / step)) + more.get(name, 0)))
                plans[name] = LayerPlan(kept, dropped=n - kept)
            else:
                kept = math.ceil(n * (1 + 1 / ratio) / 2)
                cheaper = kept * per_map + (n - kept) * kept < n * per_map
                plans[name] = LayerPlan(kept, n - kept) if cheaper else LayerPlan(n)
        return plans

    def cost(plans: Mapping[str, LayerPlan]) -> float:
        total = 0.0
        for name, conv in convs.items():
            plan, n = plans[name], conv.out_channels
            source = consumed.get(name)
            inputs = plans[source].kept / convs[source].out_channels if source is not None else 1.0
            per_map = conv.weight[0].numel() * inputs
            total += macs[name] * (plan.kept * per_map + plan.ghosted * plan.kept) / (n * conv.weight[0].numel())
            total += passed.get(name, 0) * plan.kept / n
        return total

    total, least = sum(macs[name] for name in convs) + sum(passed.values()), cost(planned(0.0))
    allowed = total / ratio
    if least > allowed:
        raise InputError(
            f"ratio is {ratio:g}: with one map left in each of the {len(inner)} convolutions whose maps can be "
            f"dropped it is {total / least:.2f}; expected well below that"
        )
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(planned(middle)) <= allowed else (low, middle)
    # Whole maps leave some of the cost: those rounded down the most get more first, in turn while it lasts.
    order = sorted(inner, key=lambda name: -remainder(convs[name].out_channels, low, round_to))
    more: dict[str, int] = {}
    fits = True
    while fits:
        fits = False
        for name in order:
            another = more | {name: more.get(name, 0) + 1}
            plans = planned(low, another)
            if plans != planned(low, more) and cost(plans) <= allowed:
                more, fits = another, True
    return planned(low, more)


def step_of(maps: int, round_to: int) -> int:
    """What a layer's kept maps are a multiple of: layers with few maps take any number."""
    return round_to if maps >= 2 * round_to else 1


def remainder(maps: int, share: float, round_to: int) -> float:
    """What rounding down took from a layer, as a share of its step."""
    return math.modf(maps * share / step_of(maps, round_to))[0]
