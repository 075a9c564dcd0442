"""Layer-wise reconstruction: a trained network's layers change, fitted to their outputs before, without labels."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ghostify.changes import AnyPlan, LayerPlan
from ghostify.changes.layer_plan import changed_blocks, outside_changed_blocks
from ghostify.errors import InputError, spelled
from ghostify.fitting.calibration import FEW, first_images, held_out, small_batches
from ghostify.fitting.moments import maps_at, samples_per_image
from ghostify.fitting.pruning import LeftChannels, drop_channels_
from ghostify.fitting.refine import refine_, refine_whole_
from ghostify.fitting.samples import LARGEST_BLOCK_KERNEL, SampleBatch, SumSamples, sample_convolution
from ghostify.modes import evaluating, random_state_kept
from ghostify.progress import Progress
from ghostify.structure.blocks import (
    Block,
    calls_of,
    ends_of,
    find_blocks,
    inputs_of,
    run_through_,
    watching_outputs,
)
from ghostify.structure.norms import norm_gains
from ghostify.structure.residual import ResidualSum, residual_sum, residual_sums, sums_of
from ghostify.structure.surgery import conv_at, has_hooks, replace_modules_, replaceable
from ghostify.transform.order import fold_orders

Effort = Literal["fast", "refined"]
EFFORTS: tuple[str, ...] = get_args(Effort)
# So many images are few. They are taken mirrored, too: where maps have few pixels the fits need more of them, and of
# more images all that is kept would take too much memory. The whole learns nothing of few that its blocks have not
# learnt (docs/keeping.md), unless these are single convolutions, which are fitted already.
FEW_TO_LEARN = 512
JUDGED_EVERY = 16  # images, of which one tells whether the whole got better, and is in no fit
LEAST_GAIN = 1e-3  # over the largest: a channel with less makes up for nothing


@dataclass(frozen=True)
class Reconstruction:
    """Settings of a reconstruction.

    Args:
        effort: "fast" (closed form) or "refined" (blocks learn their outputs, too, and then all weights the network's:
            of more than 512 images, or where each block is one convolution).
        seed: Seed of the samples and the order of the images.
        progress: Called at each block.
    """

    effort: Effort = "refined"
    seed: int = 0
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.effort not in EFFORTS:
            raise InputError(f"{spelled('effort')} is {self.effort!r}: expected one of {', '.join(EFFORTS)}")

    def say(self, task: str, detail: str, done: int, total: int) -> None:
        """Report progress, if that is asked for."""
        if self.progress:
            self.progress(task, detail, done, total)


@dataclass(frozen=True)
class ReconstructedLayer:
    """The quality of a layer's reconstruction.

    Args:
        explained: Share of the variance of the ghosted channels that is explained; None where there are none.
        block: The block whose output was compared; "" where the layer is in none, and was left.
        block_error: Mean squared error at the block's output over its variance, on the calibration images.
    """

    explained: float | None
    block: str
    block_error: float | None


@dataclass(frozen=True)
class Target:
    """The output that a convolution should give for a batch.

    Args:
        channels: The output at some pixels, ``[batch · pixels, channels]``.
        pixels: Indices into the flattened output.
    """

    channels: Tensor
    pixels: Tensor


@dataclass
class Pair:
    """A network and its changed copy, and the inputs of their next block.

    Args:
        original: The network in eval mode.
        changed: The copy in eval mode; changed block by block.
        plans: By name.
        left: Channels left of the convolutions that lost some.
        generator: Source of random samples; on the CPU.
        inputs: Inputs of the next block in the changed network, batch by batch.
        targets: Its inputs in the original.
    """

    original: nn.Module
    changed: nn.Module
    plans: Mapping[str, AnyPlan]
    left: Mapping[str, LeftChannels]
    generator: torch.Generator
    inputs: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)

    def put(self, name: str, layer: nn.Module) -> None:
        """Put a layer into the changed network."""
        old = self.changed.get_submodule(name)
        if layer is not old:
            self.changed = replace_modules_(self.changed, {old: layer})


def reconstruct(
    original: nn.Module, plans: Mapping[str, AnyPlan], batches: Sequence[Tensor], how: Reconstruction
) -> tuple[nn.Module, dict[str, ReconstructedLayer]]:
    """Copy a trained network with its layers changed as planned.

    First channels are dropped: those of each convolution stay from which the outputs of its consumers can best be
    computed. Then block by block, in the order in which they run, each layer is fitted by least squares to its output
    in the original, from its input in the changed network so far; a convolution that is added to its block's input
    also makes up for the error of that. With effort "refined" the block's weights then learn its output, and few images
    are taken mirrored, too; at the end all weights learn the network's output where that helps. BatchNorm statistics
    stay: the targets are the original's.

    Args:
        original: Left untouched; used in eval mode.
        plans: Plans of all convolutions that may change and of blocks that change as a whole, by module name.
        batches: Inputs ``[batch, channels, height, width]``, normalised as for the network.
    Returns:
        The copy, in eval mode, and the quality of each layer of ``plans``.
    Raises:
        InputError: If dropped channels go elsewhere than to following layers, a block that changes as a whole is no
            sum of its input and a convolution's channels, or an input change leaves as many channels.
    """
    with random_state_kept(original):  # new layers draw weights, which their fit replaces
        return reconstructed(original, plans, batches, how)


def reconstructed(
    original: nn.Module, plans: Mapping[str, AnyPlan], batches: Sequence[Tensor], how: Reconstruction
) -> tuple[nn.Module, dict[str, ReconstructedLayer]]:
    """The work of ``reconstruct``, which draws random numbers."""
    plans = outside_changed_blocks(plans)
    layout = memory_format_for(original, batches[0][:2])
    original = copy.deepcopy(original).eval().to(memory_format=layout)
    example = batches[0][:2].contiguous(memory_format=layout)
    blocks = find_blocks(original, list(plans), example)
    few, refined = sum(map(len, batches)) <= FEW_TO_LEARN, how.effort == "refined"
    learns_whole = refined and bool(blocks) and (not few or all(len(block.convs) == 1 for block in blocks))
    batches, judging = held_out(batches, JUDGED_EVERY) if learns_whole else (list(batches), [])
    batches = [part.contiguous(memory_format=layout) for batch in batches for part in small_batches(batch)]
    if refined and few:
        batches += [batch.flip(3) for batch in batches]
    changed = copy.deepcopy(original)
    left = drop_channels_(changed, original, {name: plan.dropped for name, plan in plans.items()}, batches)
    pair = Pair(original, changed, plans, left, torch.Generator().manual_seed(how.seed))
    refuse_idle_input_changes(pair)
    gains = norm_gains(original, example)
    report: dict[str, ReconstructedLayer] = {}
    totals = sums_to_replace(original, plans, blocks, first_images(batches, FEW))
    rows = {block.name: rows_at_end(block, left) for block in blocks}
    for index, block in enumerate(blocks):
        how.say(f"reconstruct ({how.effort})", block.name, index, len(blocks))
        if not (block.chained and pair.inputs):
            pair.targets = inputs_of(original, block.name, batches, block.times)
            pair.inputs = inputs_of(pair.changed, block.name, batches, block.times)
        if block.name in totals:
            explained = replace_block(pair, block, totals[block.name])
        else:
            explained = fit_convolutions(pair, block, gains)
        end = rows[block.name]
        targets = pair.targets if end is None else [t[:, end] for t in pair.targets]
        part = pair.changed.get_submodule(block.name)
        if refined and next(part.parameters(), None) is not None:
            refine_(part, pair.inputs, targets, pair.generator)
        run_through_(part, pair.inputs)
        error = relative_error(pair.inputs, targets)
        report |= {name: ReconstructedLayer(share, block.name, error) for name, share in explained.items()}
    how.say(f"reconstruct ({how.effort})", "done", len(blocks), len(blocks))
    changed = pair.changed
    if learns_whole:
        # The ends of those that run for one map of several are near the network's outputs, which are learnt anyway.
        ends = {block.name: rows[block.name] for block in blocks if block.times == 1}
        refine_whole_(changed, original, ends, batches, judging, pair.generator, progress=how.progress)
        errors = end_errors(changed, original, ends, batches)
        report = {
            name: replace(layer, block_error=errors.get(layer.block, layer.block_error))
            for name, layer in report.items()
        }
    changed = fold_orders(changed.eval(), original, batches[0][:1])
    changed.to(memory_format=torch.contiguous_format)
    return changed, {name: report.get(name, ReconstructedLayer(None, "", None)) for name in plans}


def refuse_idle_input_changes(pair: Pair) -> None:
    """Refuse input changes that leave a convolution as many channels as it takes already."""
    for name, plan in pair.plans.items():
        if isinstance(plan, LayerPlan) and plan.input is not None:
            channels = conv_at(pair.changed, name).in_channels
            if plan.input.in_channels >= channels:
                raise InputError(
                    f"{spelled('plan')}: {name} takes {channels} channels: expected to merge them to fewer than that"
                )


@torch.no_grad()
def replace_block(pair: Pair, block: Block, total: ResidualSum) -> dict[str, float | None]:
    """Change a block as a whole; returns the share explained, by name."""
    batches = partial(samples_of_sum, pair, block, total)
    fitted = changed_blocks(pair.plans)[block.name].fit(SumSamples(total, batches))
    pair.put(block.name, fitted.layer)
    run_through_(pair.original.get_submodule(block.name), pair.targets)
    return {block.name: fitted.explained}


@torch.no_grad()
def fit_convolutions(pair: Pair, block: Block, gains: Mapping[str, Tensor]) -> dict[str, float | None]:
    """Fit the convolutions of a block; returns the shares explained, by name."""
    explained: dict[str, float | None] = {}
    targets = targets_of_(pair, block)
    for name in block.convs:
        plan = pair.plans[name]
        assert isinstance(plan, LayerPlan)
        rows, gain = pair.left[name].rows if name in pair.left else None, gains.get(name)
        samples = sample_convolution(
            conv_at(pair.changed, name),
            partial(samples_of, pair.changed, block, name, pair.inputs, targets[name], rows),
            gain if gain is None or rows is None else gain[rows],
        )
        fitted = plan.fit(samples)
        pair.put(name, fitted.layer)
        explained[name] = fitted.explained
    return explained


@torch.no_grad()
def memory_format_for(model: nn.Module, example: Tensor) -> torch.memory_format:
    """Channels last, in which convolutions learn faster, if the network takes it; a ``view`` of maps may not."""
    trial = copy.deepcopy(model).eval()
    try:
        trial.to(memory_format=torch.channels_last)
        trial(example.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return torch.contiguous_format
    return torch.channels_last


def sums_to_replace(
    original: nn.Module, plans: Mapping[str, AnyPlan], blocks: Sequence[Block], images: Tensor
) -> dict[str, ResidualSum]:
    """The sums at the ends of the blocks that change as a whole."""
    changing = changed_blocks(plans)
    convs = [name for name, module in original.named_modules() if isinstance(module, nn.Conv2d)]
    planned = [
        replace(block, convs=tuple(name for name in convs if name.startswith(f"{block.name}.")))
        for block in blocks
        if block.name in changing
    ]
    found = residual_sums(original, planned, images)
    free = replaceable(original, list(found), images[:1])
    for name, change in changing.items():
        if name not in found:
            raise InputError(
                f"{spelled('plan')}: {name} cannot change as a whole: expected a block that runs once "
                "and adds a convolution's channels to its input"
            )
        if name not in free or any(map(has_hooks, original.get_submodule(name).modules())):
            raise InputError(
                f"{spelled('plan')}: {name} cannot change as a whole: it has hooks, or the network's code reads of it"
            )
        if change.channels != len(found[name].gain):
            raise InputError(f"{spelled('plan')}: {name} makes {len(found[name].gain)} channels, not {change.channels}")
    return found


def samples_of_sum(pair: Pair, block: Block, total: ResidualSum) -> Iterator[SampleBatch]:
    """A block's inputs in the changed network, and its sums in the original at some pixels, batch by batch."""
    images = sum(map(len, pair.inputs))
    for x, y in zip(pair.inputs, sums_of(pair.original, block.name, total, pair.targets), strict=True):
        number, inputs = y[0, 0].numel(), y.shape[1] * LARGEST_BLOCK_KERNEL**2
        pixels = torch.randperm(number, generator=pair.generator, device="cpu")[
            : samples_per_image(number, inputs, images)
        ]
        pixels = pixels.to(y.device)
        yield SampleBatch(x, maps_at(y, pixels), pixels)


def targets_of_(pair: Pair, block: Block) -> dict[str, list[Target]]:
    """Target outputs of the convolutions of a block; afterwards ``pair.targets`` are the block's outputs.

    Returns:
        By convolution, the original's output at some pixels of each batch; where that is added to the block's input,
        plus the error of this input in the changed network.
    """
    targets: dict[str, list[Target]] = {name: [] for name in block.convs}
    images = sum(map(len, pair.inputs))
    few = first_images(pair.targets, FEW)
    totals = {name: residual_sum(pair.original, block.name, name, few) for name in block.convs}

    def take(name: str, output: Tensor) -> None:
        # At once: what comes behind may change it in place.
        number, inputs = output[0, 0].numel(), pair.changed.get_parameter(f"{name}.weight")[0].numel()
        pixels = torch.randperm(number, generator=pair.generator, device="cpu")[
            : samples_per_image(number, inputs, images)
        ]
        pixels = pixels.to(output.device)
        channels, total, batch = maps_at(output, pixels), totals[name], len(targets[name])
        if total is not None:
            missing, gain = maps_at(pair.targets[batch], pixels) - maps_at(pair.inputs[batch], pixels), total.gain
            channels = channels + missing / gain.where(gain.abs() > LEAST_GAIN * gain.abs().max(), torch.inf)
        targets[name].append(Target(channels, pixels))

    with watching_outputs(pair.original, block.convs, take):
        run_through_(pair.original.get_submodule(block.name), pair.targets)
    return targets


def samples_of(
    changed: nn.Module,
    block: Block,
    conv: str,
    inputs: Sequence[Tensor],
    targets: Sequence[Target],
    rows: Tensor | None,
) -> Iterator[SampleBatch]:
    """A convolution's inputs in the changed network, and its targets at some pixels, batch by batch."""
    calls = calls_of(changed.get_submodule(block.name), changed.get_submodule(conv), inputs, before=True)
    for (x, _), target in zip(calls, targets, strict=True):
        yield SampleBatch(x, target.channels if rows is None else target.channels[:, rows], target.pixels)


def rows_at_end(block: Block, left: Mapping[str, LeftChannels]) -> Tensor | None:
    """Indices of the original's channels that are left at the end of a block; None for all."""
    for conv in block.convs:
        # A block that is one convolution has its consumers elsewhere, too.
        if conv in left and any(not f"{taker}.".startswith(f"{block.name}.") for taker in left[conv].consumers):
            return left[conv].rows
    return None


@torch.no_grad()
def end_errors(
    changed: nn.Module, original: nn.Module, ends: Mapping[str, Tensor | None], batches: Sequence[Tensor]
) -> dict[str, float]:
    """Mean squared error over variance at the ends of blocks."""
    errors: dict[str, list[float]] = {name: [] for name in ends}
    with evaluating(changed, original), ends_of(changed, ends) as outputs, ends_of(original, ends) as targets:
        for batch in batches:
            changed(batch.clone())
            original(batch.clone())
            for name, rows in ends.items():
                target = targets[name] if rows is None else targets[name][:, rows]
                errors[name].append(relative_error([outputs[name]], [target]))
    return {name: sum(found) / len(found) for name, found in errors.items()}


def relative_error(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """Mean squared error over variance."""
    error = variance = 0.0
    for x, target in zip(outputs, targets, strict=True):
        error += float((x - target).square().sum())
        variance += float((target - target.mean()).square().sum())
    return error / variance if variance else 0.0
