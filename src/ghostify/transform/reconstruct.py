"""Turn a trained network into its ghost, keeping what it knows: no labels, a few hundred images."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghostify.changes.one_convolution import fit_ghost_block
from ghostify.errors import InputError
from ghostify.fitting.calibration import FEW, first_images, small_batches
from ghostify.fitting.least_squares import (
    choose_maps,
    complement,
    fit_depthwise,
    fit_filters,
    fit_pointwise,
    merge_inputs,
)
from ghostify.fitting.moments import Moments, MomentSums, TapSums, maps_at, patches, samples_per_image, windows
from ghostify.fitting.pruning import LeftMaps, drop_maps_
from ghostify.fitting.refine import refine_, refine_whole_
from ghostify.layers import GhostConv2d
from ghostify.layers.ghost_conv import Cheap
from ghostify.modes import evaluating
from ghostify.progress import Progress
from ghostify.structure.blocks import (
    Block,
    calls_of,
    ends_of,
    find_blocks,
    inputs_of,
    record_calls,
    run_through_,
    watching_outputs,
)
from ghostify.structure.residual import ResidualSum, residual_sum, residual_sums, sums_of
from ghostify.structure.surgery import conv_at, replace_modules_
from ghostify.transform.order import fold_orders
from ghostify.transform.plan import BLOCK_KERNELS, LayerPlan, outside_ghost_blocks

Effort = Literal["fast", "refined"]
EFFORTS: tuple[str, ...] = get_args(Effort)
LEAST_GAIN = 1e-3  # over the largest: a map that counts less makes up for nothing
Aim = tuple[Tensor, Tensor]  # what a convolution should give at some pixels, [batch · pixels, channels]; and these


@dataclass(frozen=True)
class KeptLayer:
    """How well a convolution's maps are kept.

    Args:
        explained: Share of the ghosts' variance that their filters give; None where there are none.
        block: The block whose output was compared; "" where it was in none, and was left.
        block_error: Mean squared error at the block's output over its variance, on the calibration images.
    """

    explained: float | None
    block: str
    block_error: float | None


@torch.random.fork_rng(devices=[])  # new layers draw weights, which their fit replaces
def keep_knowledge(
    original: nn.Module,
    plans: Mapping[str, LayerPlan],
    batches: Sequence[Tensor],
    *,
    cheap: Cheap = "pointwise",
    cheap_kernel_size: int = 3,
    effort: Effort = "refined",
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[nn.Module, dict[str, KeptLayer]]:
    """Copy a trained network with its convolutions' maps kept, ghosted and dropped as planned.

    First the dropped maps go: of each convolution those stay that best tell what its consumers compute of
    all. Then block by block, in the order in which they run, each convolution is fitted by least squares
    to what it gave in the original, from what it gets in the ghost so far; one that is added to its
    block's input makes up for what that lacks as well. With effort "refined" the block's weights then learn
    its output, and at the end all weights the network's. BatchNorm statistics stay: the wanted maps are the
    original's.

    Args:
        original: Left untouched; used in eval mode.
        plans: For each convolution that may change, by module name, and for residual blocks that become ghosts.
        batches: Inputs ``[batch, channels, height, width]``, normalised as for the network.
        effort: "fast" (closed form) or "refined".
    Returns:
        The copy, in eval mode, and what became of each convolution of ``plans``, and each block.
    Raises:
        InputError: If maps are to be dropped that are not only for following layers, or a block to become a ghost that
            is no sum of its input and a convolution's maps, or inputs to be merged to no fewer than there are.
    """
    generator = torch.Generator().manual_seed(seed)
    layout = memory_format_for(original, batches[0][:2])
    original = copy.deepcopy(original).eval().to(memory_format=layout)
    batches = [part.contiguous(memory_format=layout) for batch in batches for part in small_batches(batch)]
    ghost = copy.deepcopy(original)
    example = batches[0][:2]
    plans = outside_ghost_blocks(plans)
    left = drop_maps_(ghost, original, {name: plan.dropped for name, plan in plans.items()}, batches)
    for name, plan in plans.items():
        if plan.merged is not None and plan.merged >= (inputs := conv_at(ghost, name).in_channels):
            raise InputError(f"plan: {name} takes {inputs} maps: expected to merge them to fewer than that")
    rows = {name: maps.rows for name, maps in left.items()}
    gains = norm_gains(original, example)
    report: dict[str, KeptLayer] = {}
    blocks = find_blocks(original, list(plans), example)
    totals = sums_to_ghost(original, plans, blocks, first_images(batches, FEW))
    ends = {block.name: rows_at_end(block, left) for block in blocks}
    wanted: list[Tensor] = []  # what the next block gets in the original, and in the ghost
    given: list[Tensor] = []
    for index, block in enumerate(blocks):
        if progress:
            progress(f"keep ({effort})", block.name, index, len(blocks))
        if not (block.chained and given):
            wanted, given = inputs_of(original, block.name, batches), inputs_of(ghost, block.name, batches)
        explained: dict[str, float | None] = {}
        if block.name in totals:
            total = totals[block.name]
            samples = partial(samples_of_sums, original, block, total, wanted, given, generator)
            whole, explained[block.name] = fit_ghost_block(total, plans[block.name].kernel_size, samples)
            ghost = replace_modules_(ghost, {ghost.get_submodule(block.name): whole})
            run_through_(original.get_submodule(block.name), wanted)
        else:
            aims = aims_of_(original, ghost, block, wanted, given, generator)
            for name in block.convs:
                conv = ghost.get_submodule(name)
                assert isinstance(conv, nn.Conv2d)
                fitted, explained[name] = fit_layer(
                    conv,
                    plans[name],
                    partial(samples_of, ghost, block, name, given, aims[name]),
                    rows.get(name),
                    gains.get(name),
                    plans[name].cheap_or(cheap),
                    cheap_kernel_size,
                )
                ghost = replace_modules_(ghost, {conv: fitted})
        part = ghost.get_submodule(block.name)
        end = ends[block.name]
        targets = wanted if end is None else [t[:, end] for t in wanted]
        if effort == "refined":
            refine_(part, given, targets, generator)
        run_through_(part, given)
        error = relative_error(given, targets)
        report |= {name: KeptLayer(share, block.name, error) for name, share in explained.items()}
    if progress:
        progress(f"keep ({effort})", "done", len(blocks), len(blocks))
    if effort == "refined" and blocks:
        refine_whole_(ghost, original, ends, batches, generator, progress=progress)
        errors = end_errors(ghost, original, ends, batches)
        report = {name: replace(layer, block_error=errors[layer.block]) for name, layer in report.items()}
    ghost = fold_orders(ghost.eval(), original, batches[0][:1])
    ghost.to(memory_format=torch.contiguous_format)
    return ghost, {name: report.get(name, KeptLayer(None, "", None)) for name in plans}


@torch.no_grad()
def memory_format_for(model: nn.Module, example: Tensor) -> torch.memory_format:
    """Channels last, in which convolutions learn faster, where the network takes it; a ``view`` of maps may not."""
    trial = copy.deepcopy(model).eval()
    try:
        trial.to(memory_format=torch.channels_last)
        trial(example.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return torch.contiguous_format
    return torch.channels_last


def sums_to_ghost(
    original: nn.Module, plans: Mapping[str, LayerPlan], blocks: Sequence[Block], images: Tensor
) -> dict[str, ResidualSum]:
    """What the blocks compute at their ends that are to be ghosts."""
    convs = [name for name, module in original.named_modules() if isinstance(module, nn.Conv2d)]
    planned = [
        replace(block, convs=tuple(name for name in convs if name.startswith(f"{block.name}.")))
        for block in blocks
        if plans[block.convs[0]].of_block
    ]
    found = residual_sums(original, planned, images)
    for name, plan in plans.items():
        if plan.of_block and name not in found:
            raise InputError(
                f"plan: {name} cannot become a ghost: expected a block that runs once and adds a convolution's maps "
                "to its input"
            )
        if plan.of_block and plan.maps != len(found[name].gain):
            raise InputError(f"plan: {name} makes {len(found[name].gain)} maps, not {plan.maps}")
    return found


def samples_of_sums(
    original: nn.Module,
    block: Block,
    total: ResidualSum,
    wanted: Sequence[Tensor],
    given: Sequence[Tensor],
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Per batch: what a block gets in the ghost, its sum in the original at some pixels, and these.

    Args:
        wanted: Batches of what it gets in the original.
    """
    images = sum(map(len, given))
    for x, y in zip(given, sums_of(original, block.name, total, wanted), strict=True):
        pixels, inputs = y[0, 0].numel(), y.shape[1] * max(BLOCK_KERNELS.values()) ** 2
        chosen = torch.randperm(pixels, generator=generator)[: samples_per_image(pixels, inputs, images)].to(y.device)
        yield x, maps_at(y, chosen), chosen


def aims_of_(
    original: nn.Module,
    ghost: nn.Module,
    block: Block,
    wanted: list[Tensor],
    given: Sequence[Tensor],
    generator: torch.Generator,
) -> dict[str, list[Aim]]:
    """What the convolutions of a block should give.

    Args:
        wanted: Batches of what the block gets in the original; of what it gives, when this is done.
        given: Batches of what it gets in the ghost.
    Returns:
        By convolution, for each batch what the original's gives at some pixels, and where that is added to the block's
        input, what the ghost's input lacks, too.
    """
    aims: dict[str, list[Aim]] = {name: [] for name in block.convs}
    images = sum(map(len, given))
    few = first_images(wanted, FEW)
    totals = {name: residual_sum(original, block.name, name, few) for name in block.convs}

    def take(name: str, output: Tensor) -> None:
        # At once: what comes behind may change it in place.
        pixels, inputs = output[0, 0].numel(), ghost.get_parameter(f"{name}.weight")[0].numel()
        chosen = torch.randperm(pixels, generator=generator)[: samples_per_image(pixels, inputs, images)]
        chosen = chosen.to(output.device)
        aim, total, batch = maps_at(output, chosen), totals[name], len(aims[name])
        if total is not None:
            lacking, gain = maps_at(wanted[batch], chosen) - maps_at(given[batch], chosen), total.gain
            aim = aim + lacking / gain.where(gain.abs() > LEAST_GAIN * gain.abs().max(), torch.inf)
        aims[name].append((aim, chosen))

    with watching_outputs(original, block.convs, take):
        run_through_(original.get_submodule(block.name), wanted)
    return aims


def samples_of(
    ghost: nn.Module, block: Block, conv: str, given: Sequence[Tensor], aims: Sequence[Aim]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Per batch: what the ghost's convolution gets, what it should give at some pixels, and these."""
    gets = calls_of(ghost.get_submodule(block.name), ghost.get_submodule(conv), given, before=True)
    for (x, _), (aim, pixels) in zip(gets, aims, strict=True):
        yield x, aim, pixels


@torch.no_grad()
def fit_layer(
    conv: nn.Conv2d,
    plan: LayerPlan,
    samples: Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]],
    rows: Tensor | None,
    gain: Tensor | None,
    cheap: Cheap,
    cheap_kernel_size: int,
) -> tuple[nn.Module, float | None]:
    """A layer in a convolution's place, fitted to wanted maps; the share of its ghosts that it explains.

    Args:
        conv: As it is in the ghost now: without dropped maps, its own and those of its inputs.
        samples: Gives batches of what it gets, what the original's gives at some pixels, and these.
        rows: Which of the original's maps it still makes; None for all.
        gain: What an error in each of the original's maps counts; None where all count the same.
    """
    prior = conv.weight.flatten(1)
    sums = MomentSums()
    for x, t, pixels in samples():
        sums.add(patches(conv, x, pixels), t if rows is None else t[:, rows])
    found = sums.moments()
    gain = torch.ones(len(prior), device=prior.device) if gain is None else gain if rows is None else gain[rows]
    if not plan.ghosted and plan.merged is None:
        filters = fit_filters(found, prior)
        return with_filters(conv, filters, found.t_mean - filters @ found.x_mean), None
    layer = GhostConv2d.like(
        conv,
        cheap=cheap,
        cheap_kernel_size=cheap_kernel_size,
        intrinsic=plan.kept,
        ordered=plan.ghosted > 0,
        bias=True,
        merged=plan.merged,
    )
    if layer.merge is not None:
        fitted = fit_filters(found, prior).unflatten(1, (layer.merge.in_channels, -1))
        merged = merge_inputs(found, fitted, gain, layer.merge.out_channels)
        layer.merge.weight.copy_(merged.combinations[:, :, None, None])
        found, prior = merged.moments, merged.prior
    if layer.cheap is None:
        filters = fit_filters(found, prior)
        set_(layer.primary, filters, found.t_mean - filters @ found.x_mean)
        return layer.eval(), None
    if cheap == "pointwise":
        pointwise = fit_pointwise(found, fit_filters(found, prior), gain, plan.kept)
        kept, slots, explained = pointwise.kept, torch.arange(plan.ghosted, device=prior.device), pointwise.explained
        others = complement(kept, len(prior))
        set_(layer.primary, pointwise.filters, pointwise.bias)
        set_(layer.cheap, pointwise.combinations, pointwise.combination_bias)
    else:
        kept = choose_maps(found.tt, torch.diag(gain.double() ** 2), plan.kept)
        others = complement(kept, len(prior))
        filters = fit_filters(chosen_outputs(found, kept), prior[kept])
        set_(layer.primary, filters, found.t_mean[kept] - filters @ found.x_mean)
        taps = TapSums()
        for x, t, pixels in samples():
            maps = F.pad(layer.primary(x), (cheap_kernel_size // 2,) * 4)
            taps.add(
                windows(maps, pixels, (cheap_kernel_size,) * 2).flatten(0, 1).flatten(2),
                (t if rows is None else t[:, rows])[:, others],
            )
        depthwise = fit_depthwise(taps.moments(), layer.ratio - 1)
        slots, explained = depthwise.slots.to(prior.device), depthwise.explained
        set_(layer.cheap, depthwise.filters, depthwise.bias)
    assert layer.order is not None
    layer.order[kept] = torch.arange(plan.kept, device=prior.device)
    layer.order[others] = plan.kept + slots
    return layer.eval(), explained


def rows_at_end(block: Block, left: Mapping[str, LeftMaps]) -> Tensor | None:
    """Which of the original's maps a block still gives; None for all."""
    for conv in block.convs:
        # A block that is one convolution has its consumers elsewhere, too.
        if conv in left and any(not f"{taker}.".startswith(f"{block.name}.") for taker in left[conv].consumers):
            return left[conv].rows
    return None


def chosen_outputs(found: Moments, chosen: Tensor) -> Moments:
    return Moments(found.x_mean, found.t_mean[chosen], found.xx, found.tx[chosen], found.tt[chosen][:, chosen])


def set_(conv: nn.Conv2d, filters: Tensor, bias: Tensor) -> None:
    """Put filters ``[maps, inputs]`` and biases into the first maps of a convolution."""
    assert conv.bias is not None
    conv.weight[: len(filters)] = filters.to(conv.weight).reshape(-1, *conv.weight.shape[1:])
    conv.bias[: len(bias)] = bias.to(conv.bias)


def with_filters(conv: nn.Conv2d, filters: Tensor, bias: Tensor) -> nn.Conv2d:
    """The same convolution with other filters, and a bias even if it had none: what was fitted needs one."""
    fitted = copy.deepcopy(conv)
    fitted.bias = nn.Parameter(torch.zeros_like(fitted.weight[:, 0, 0, 0]), conv.weight.requires_grad)
    set_(fitted, filters, bias)
    return fitted


def norm_gains(model: nn.Module, example: Tensor) -> dict[str, Tensor]:
    """What the BatchNorm behind a convolution multiplies each of its maps by, where one is right behind it."""
    calls = record_calls(model, example)
    names = {module: name for name, module in model.named_modules()}
    makers = {id(call.made): (names[m], call) for m, c in calls.items() if isinstance(m, nn.Conv2d) for call in c.plain}
    gains = {}
    for module, made in calls.items():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            for call in made.plain:
                maker, before = makers.get(id(call.given), ("", None))
                if call.chained_to(before):
                    weight = torch.ones_like(module.running_var) if module.weight is None else module.weight.detach()
                    gains[maker] = weight.abs() / (module.running_var + module.eps).sqrt()
    return gains


@torch.no_grad()
def end_errors(
    ghost: nn.Module, original: nn.Module, ends: Mapping[str, Tensor | None], batches: Sequence[Tensor]
) -> dict[str, float]:
    """Mean squared error over variance at the ends of blocks."""
    errors: dict[str, list[float]] = {name: [] for name in ends}
    with evaluating(ghost, original), ends_of(ghost, ends) as given, ends_of(original, ends) as wanted:
        for batch in batches:
            ghost(batch.clone())
            original(batch.clone())
            for name, rows in ends.items():
                target = wanted[name] if rows is None else wanted[name][:, rows]
                errors[name].append(relative_error([given[name]], [target]))
    return {name: sum(found) / len(found) for name, found in errors.items()}


def relative_error(given: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Mean squared error over variance."""
    error = variance = 0.0
    for x, target in zip(given, wanted, strict=True):
        error += float((x - target).square().sum())
        variance += float((target - target.mean()).square().sum())
    return error / variance if variance else 0.0
