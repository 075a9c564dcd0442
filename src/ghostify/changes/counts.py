"""Plans as numbers of channels, as in plan files of format 1."""

from typing import Any

from ghostify.changes.depthwise import DepthwiseGhosts
from ghostify.changes.keep import Keep
from ghostify.changes.layer_plan import AnyPlan, BlockPlan, LayerPlan
from ghostify.changes.merge import MergeInputs
from ghostify.changes.one_convolution import OneConvolution
from ghostify.changes.pointwise import PointwiseGhosts
from ghostify.changes.prune import Prune
from ghostify.errors import InputError

NUMBERS = ("kept", "ghosted", "dropped", "merged")
GHOSTS = {"depthwise": DepthwiseGhosts, "pointwise": PointwiseGhosts}
BLOCK_KERNELS = {"pointwise": 1, "convolution": 3}


def plan_from_counts(row: Any) -> AnyPlan | None:
    """The plan of a layer, from numbers of its channels.

    Args:
        row: ``kept``, and perhaps ``ghosted`` and ``dropped``; ``cheap``: how the ghosts are made, "pointwise" (the
            default with ``merged``) or "depthwise" (the default without), or in a block that keeps none "pointwise"
            (the default) or "convolution"; ``merged``: the number of combinations of input channels.
    Returns:
        The plan; None where all channels are dropped, as in a block that changes as a whole.
    Raises:
        InputError: If the row is no such plan.
    """
    if not isinstance(row, dict) or "kept" not in row:
        raise InputError("expected whole numbers of kept, ghosted and dropped channels")
    if row.keys() - {*NUMBERS, "cheap"}:
        raise InputError("expected kept, ghosted, dropped, cheap and merged, and nothing else")
    merged, cheap = row.get("merged"), row.get("cheap")
    numbers = [row.get(name, 0) for name in NUMBERS[:3]] + ([] if merged is None else [merged])
    if any(type(number) is not int or number < 0 for number in numbers):
        raise InputError(f"{row}: expected whole numbers of kept, ghosted, dropped and merged channels, none negative")
    kept, ghosted, dropped = numbers[:3]
    if not kept:
        return block_from_counts(ghosted, dropped, cheap, merged)
    cheap = cheap or ("depthwise" if merged is None else "pointwise")
    if not isinstance(cheap, str) or cheap not in GHOSTS:
        raise InputError(f"a layer's cheap is {cheap!r}: expected one of {', '.join(GHOSTS)}")
    output = GHOSTS[cheap](kept, ghosted, dropped) if ghosted else Prune(kept, dropped) if dropped else Keep(kept)
    return LayerPlan(output, None if merged is None else MergeInputs(merged))


def block_from_counts(ghosted: int, dropped: int, cheap: Any, merged: int | None) -> BlockPlan | None:
    """The plan of a block that keeps no channel; None for a convolution inside one."""
    if bool(ghosted) == bool(dropped) or merged is not None:
        raise InputError("expected at least 1 kept channel, or all of a block ghosted, or all in it dropped")
    if dropped:
        return None
    cheap = cheap or "pointwise"
    if not isinstance(cheap, str) or cheap not in BLOCK_KERNELS:
        raise InputError(f"a block's cheap is {cheap!r}: expected one of {', '.join(BLOCK_KERNELS)}")
    return BlockPlan(OneConvolution(ghosted, BLOCK_KERNELS[cheap]))
