"""Change the convolutions of any network, by the paper's ratio or as planned."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.changes import AnyPlan, LayerPlan
from ghostify.changes.layer_plan import (
    BlockPlan,
    changed_blocks,
    inside_changed_block,
    outside_changed_blocks,
)
from ghostify.changes.ratio import GhostRatio
from ghostify.errors import InputError, spelled
from ghostify.fitting.calibration import checked_batches
from ghostify.fitting.precision import in_float32
from ghostify.measure.count import Count, count
from ghostify.models.registry import known_origin
from ghostify.structure.blocks import times_called
from ghostify.structure.surgery import check_swap, replace_modules_
from ghostify.transform.changeable import (
    ALREADY,
    NOT_CHEAPER,
    NOT_PLAINLY,
    SHARED,
    commonest_reasons,
    convolutions_of,
    may_be_fitted,
    reasons_to_leave,
    with_plain_convolutions,
)
from ghostify.transform.reconstruct import ReconstructedLayer, Reconstruction, reconstruct

KEPT = "the plan keeps all its channels"
COMPUTED = "its computed weight is a parameter now"


@dataclass(frozen=True)
class ConvertedLayer:
    """The report on one convolution, or on a residual block that changed as a whole.

    Args:
        name: Full module name.
        replaced: True if it changed.
        reason: Reason why it did not; "" if it did.
        macs_before: Multiply-adds for one input; None where the input's shape is not known; 0 for a block, as its
            convolutions have their own.
        macs_after: Multiply-adds of the new layer.
        kept: Output channels that the convolution computes.
        ghosted: Output channels that are made of those, or of a block's input.
        dropped: Output channels that are gone.
        inputs: Combinations of input channels that it takes; None: the channels themselves.
        change: The changes in words; "" where there are none.
        explained: Share of the ghosted channels' variance that the kept ones give, where calibrated.
        block: Block whose output was compared, where calibrated.
        block_error: Mean squared error of that output over its variance, where calibrated.
    """

    name: str
    replaced: bool
    reason: str
    macs_before: int | None
    macs_after: int | None
    kept: int
    ghosted: int = 0
    dropped: int = 0
    inputs: int | None = None
    change: str = ""
    explained: float | None = None
    block: str | None = None
    block_error: float | None = None


@dataclass(frozen=True)
class Conversion:
    """A changed copy of a network, and a report on each convolution."""

    model: nn.Module
    layers: tuple[ConvertedLayer, ...]

    @property
    def replaced(self) -> int:
        """Number of convolutions that changed."""
        return sum(layer.replaced for layer in self.layers)


def convert_network(
    model: nn.Module,
    asked: GhostRatio | Mapping[str, AnyPlan],
    *,
    skip: Sequence[str] = (),
    input_shape: Sequence[int] | None = None,
    calibration: Iterable[Tensor] | None = None,
    how: Reconstruction | None = None,
) -> Conversion:
    """Copy a network with its convolutions changed.

    Args:
        model: Any network that is no detector; left untouched.
        asked: Ghosts of one ratio wherever they are cheaper, or a plan, which needs images.
        skip: Full module names, or fnmatch patterns on them; not with a plan.
        input_shape: One input's without batch, for the multiply-adds per layer.
        calibration: Batches of inputs, on which the network is reconstructed; None leaves new filters to be trained.
        how: Settings of the reconstruction.
    Raises:
        InputError: As ``convert`` does.
    """
    larger = None if calibration is None else in_float32(model, checked_batches(calibration, model))
    batches = None if larger is None else larger.batches
    model = model if larger is None else larger.model
    shape = tuple(batches[0].shape[1:]) if batches and not input_shape else input_shape
    before, example = count_if_possible(model, shape)
    ghosts = asked if isinstance(asked, GhostRatio) else GhostRatio()
    reasons = reasons_to_leave(model, ghosts, skip, batches[0][:1] if batches else example)
    if batches is not None:  # a layer is fitted to its inputs and outputs
        others = set(reasons) - set(times_called(model, batches[0][:1]))
        reasons |= {name: NOT_PLAINLY for name in others if may_be_fitted(reasons[name])}
    chosen = [name for name, reason in reasons.items() if not reason]
    if not chosen and ALREADY not in reasons.values():
        found = commonest_reasons(reasons.values())
        raise InputError(f"{type(model).__name__} has no convolution to replace: {found or 'it has none at all'}")
    # With images also those are fitted anew that a ghost would not make cheaper.
    changing = chosen if batches is None else [name for name, reason in reasons.items() if may_be_fitted(reason)]
    model, computed = with_plain_convolutions(model, changing)
    convs = convolutions_of(model)
    if batches is None:
        plans: dict[str, AnyPlan] = {name: ghosts.plan(convs[name].out_channels) for name in chosen}
        changed, fits = with_new_ghosts(model, ghosts, chosen), dict[str, ReconstructedLayer]()
        if example is not None:
            check_swap(model, changed, chosen, example)
    else:
        # A convolution that a ghost would not make cheaper can still be fitted to the inputs that it will get.
        plans = {name: LayerPlan.keep(convs[name]) for name, reason in reasons.items() if may_be_fitted(reason)}
        if isinstance(asked, GhostRatio):
            plans |= {name: ghosts.plan(convs[name].out_channels) for name in chosen}
        else:
            check_plan(asked, model, convs, reasons)
            reasons |= dict.fromkeys(plans, KEPT)
            blocks = changed_blocks(asked)
            plans |= {name: plan for name, plan in asked.items() if name in convs or name in blocks}
        changed, fits = reconstruct(model, plans, batches, how or Reconstruction())
        changing = [name for name, plan in outside_changed_blocks(plans).items() if plan.changes]
        check_swap(model, changed, changing, batches[0][:1])
        changed = changed if larger is None else larger.back(changed)
    after, _ = count_if_possible(changed, shape)
    rows = rows_of(convs, plans, reasons, fits, (before, after))
    return Conversion(changed, tuple(noting_weights(row) if row.name in computed else row for row in rows))


def with_new_ghosts(model: nn.Module, ghosts: GhostRatio, names: Sequence[str]) -> nn.Module:
    """A copy with untrained ghosts instead of convolutions."""
    changed = copy.deepcopy(model)
    convs = convolutions_of(changed)
    return replace_modules_(changed, {convs[name]: ghosts.layer(convs[name]) for name in names})


def check_plan(
    plans: Mapping[str, AnyPlan], model: nn.Module, convs: Mapping[str, nn.Conv2d], reasons: Mapping[str, str]
) -> None:
    """Refuse a plan for layers that are not there, cannot change, or have another number of channels."""
    modules = dict(model.named_modules())
    for name, plan in plans.items():
        if inside_changed_block(name, plans):
            continue
        if name in modules and name not in convs:
            if isinstance(plan, LayerPlan) and plan.changes:
                raise InputError(f"{spelled('plan')}: {name} is no convolution: expected a change of a block, or none")
            continue  # whether a block can change as a whole, its fit will find out
        if name not in convs:
            raise InputError(
                f"{spelled('plan')}: the network has no convolution {name!r}, or has it under another name first"
            )
        if not may_be_fitted(reasons[name]):
            raise InputError(f"{spelled('plan')}: {name} cannot change: {reasons[name]}")
        if isinstance(plan, BlockPlan):
            raise InputError(f"{spelled('plan')}: {name} is a convolution: expected a change of its output channels")
        if plan.channels != convs[name].out_channels:
            raise InputError(
                f"{spelled('plan')}: {name} makes {convs[name].out_channels} channels, not {plan.channels}"
            )


def rows_of(
    convs: Mapping[str, nn.Conv2d],
    plans: Mapping[str, AnyPlan],
    reasons: Mapping[str, str],
    fits: Mapping[str, ReconstructedLayer],
    counts: tuple[Count | None, Count | None],
) -> Iterable[ConvertedLayer]:
    """A row for each convolution, and for each block that changed as a whole."""

    def row_of(name: str, plan: AnyPlan) -> dict[str, Any]:
        return vars(plan.table) | {"change": plan.words} | (vars(fits[name]) if name in fits else {})

    def macs_of(name: str) -> tuple[int | None, int | None]:
        before, after = (None if counted is None else counted.of(name)[0] for counted in counts)
        return before, after

    for name, conv in convs.items():
        if inside_changed_block(name, plans):
            channels = conv.out_channels
            yield ConvertedLayer(name, True, "", *macs_of(name), kept=0, dropped=channels, change="gone with its block")
            continue
        plan = plans.get(name, LayerPlan.keep(conv))
        combining = f"{NOT_CHEAPER}: combining {conv.out_channels} channels costs as much as making them"
        reason = "" if plan.changes else reasons[name] or combining
        macs, macs_after = macs_of(name)
        if reason == SHARED:  # it is no module of the copy, which runs it
            macs_after = macs
        yield ConvertedLayer(name, not reason, reason, macs, macs_after, **row_of(name, plan))
    for name in changed_blocks(plans):
        before, after = macs_of(name)
        yield ConvertedLayer(name, True, "", None if before is None else 0, after, **row_of(name, plans[name]))


def noting_weights(row: ConvertedLayer) -> ConvertedLayer:
    """A row that also says that the layer's weight is now what it had computed from others."""
    if row.replaced:
        return replace(row, change=", ".join(filter(None, (row.change, COMPUTED))))
    return replace(row, reason=f"{row.reason}; {COMPUTED}")


def count_if_possible(model: nn.Module, input_shape: Sequence[int] | None) -> tuple[Count | None, Tensor | None]:
    """The multiply-adds and an example: no multiply-adds where no shape is known, neither where the likely one fails.

    Raises:
        InputError: If the network cannot take ``input_shape``.
    """
    parameter = next(iter(model.parameters()), torch.empty(0))

    def example(shape: Sequence[int]) -> Tensor:
        # No zeros: of these an output may not depend.
        drawn = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0), device="cpu")
        return drawn.to(parameter.device, parameter.dtype)

    if input_shape is not None:
        return count(model, input_shape), example(input_shape)
    origin = known_origin(model)
    channels = next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), 3)
    designed = origin.input_shape if origin else None
    shape = designed or (channels, 224, 224)
    try:
        counted = count(model, shape)  # which says whether it fits, too
        return (counted if designed else None), example(shape)
    except InputError:
        return None, None
