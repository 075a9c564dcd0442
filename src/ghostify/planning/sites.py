"""Which convolutions and residual blocks of a network may change, and what each can become."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ghostify.layers.ghost_conv import intrinsic_channels
from ghostify.measure.count import Count
from ghostify.structure.blocks import find_blocks, record_calls
from ghostify.structure.residual import ResidualSum, residual_sums
from ghostify.transform.convert import NARROWEST, droppable, free_convolutions, matches
from ghostify.transform.plan import BLOCK_KERNELS, LayerPlan, step_of

# Shares of a layer's maps that are kept, and to which its inputs are merged, by what is offered to the planner.
SHARES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
# The least that ghosts may leave to the convolution: of fewer intrinsic maps they explain too little.
LEAST_INTRINSIC = 0.25
# The most that a block's ghosts may cost of what the block does.
MOST_OF_A_BLOCK = 0.5


@dataclass(frozen=True)
class Site:
    """A convolution that may change, or a residual block that may become a ghost as a whole.

    Args:
        name: Module name.
        inputs: Maps that it takes.
        taps: Of its filters, kernel height · width.
        pixels: Of each output map.
        input_pixels: Of each input map.
        stride: Of its filters, down and right.
        producer: The site whose inner maps are its inputs; None where its inputs cannot be dropped.
        following: Multiply-adds that each of its maps costs in depthwise convolutions behind it.
        options: What it can become; the first keeps all maps.
        within: Of a convolution, the site of the block around it: its last option is to go where that becomes a ghost.
        total: Of a block, what it computes at its end.
    """

    name: str
    inputs: int
    taps: int
    pixels: int
    input_pixels: int
    stride: tuple[int, ...]
    producer: str | None
    following: int
    options: tuple[LayerPlan, ...]
    within: str | None = None
    total: ResidualSum | None = None

    @property
    def maps(self) -> int:
        """Before."""
        return self.options[0].maps

    def macs(self, option: LayerPlan, inputs: int) -> int:
        """Multiply-adds with so many inputs left, what follows in depthwise convolutions included.

        Of a block those of its ghosts: what is in it has sites of its own.
        """
        if self.total is not None:
            return option.ghosted * self.inputs * option.kernel_size**2 * self.pixels
        ghost = 9 if option.cheap == "depthwise" else option.kept
        taken, merging = (inputs, 0) if option.merged is None else (option.merged, option.merged * inputs)
        per_pixel = option.kept * taken * self.taps + option.ghosted * ghost
        return per_pixel * self.pixels + merging * self.input_pixels + self.following * (option.kept + option.ghosted)


def find_sites(
    model: nn.Module,
    example: Tensor,
    counted: Count,
    *,
    skip: Sequence[str] = (),
    round_to: int = 1,
    merging: bool = True,
    images: Tensor | None = None,
) -> dict[str, Site]:
    """The convolutions that may change, in the network's order; a block before those inside.

    Args:
        example: One input ``[1, channels, height, width]``.
        counted: The network's multiply-adds for such an input.
        round_to: Of layers with at least twice as many maps, a multiple of this number is kept.
        merging: Whether layers may take combinations of their inputs.
        images: A few inputs, to find residual blocks by; None leaves these as they are.
    """
    convs = free_convolutions(model, skip)
    inner = droppable(model, convs, example)
    producers = {consumer: name for name, maps in inner.items() for consumer in maps.consumers}
    rows = {row.name: row for row in counted.layers}
    calls = record_calls(model, example)
    run = {name: conv for name, conv in convs.items() if conv in calls and calls[conv].once}
    blocks = {} if images is None else ghostable_blocks(model, list(run), counted, skip, images)
    sites = {}
    for name, conv in run.items():
        within = next((block for block in blocks if name.startswith(f"{block}.")), None)
        if within is not None:
            sites[within] = blocks[within]
        producer = producers.get(name)
        pixels = math.prod((rows[name].output_shape or ())[1:])
        following = sum(counted.of(follower)[0] for follower in inner[name].followers) if name in inner else 0
        input_pixels = calls[conv].plain[0].given[0, 0].numel()
        options = list(options_of(conv, name in inner, round_to))
        if merging:
            options += merging_options(conv, options, pixels, input_pixels, round_to)
        if within is not None:
            options.append(LayerPlan(0, dropped=conv.out_channels))
        sites[name] = Site(
            name,
            conv.in_channels,
            math.prod(conv.kernel_size),
            pixels,
            input_pixels,
            tuple(conv.stride),
            producer if producer in run else None,
            following // conv.out_channels,
            tuple(options),
            within,
        )
    return sites


def ghostable_blocks(
    model: nn.Module, convs: Sequence[str], counted: Count, skip: Sequence[str], images: Tensor
) -> dict[str, Site]:
    """The residual blocks that a cheap convolution of their input could stand for."""
    sites = {}
    totals = residual_sums(model, find_blocks(model, convs, images), images)
    rows = {row.name: row for row in counted.layers}
    for name, total in totals.items():
        if any(matches(inside, skip) for inside in rows if inside.startswith(f"{name}.")):
            continue
        maps, pixels = len(total.gain), math.prod((rows[total.conv].output_shape or ())[1:])
        most = MOST_OF_A_BLOCK * counted.of(name)[0]
        cheap = [LayerPlan(0, maps, cheap=kind) for kind in BLOCK_KERNELS]
        site = Site(name, maps, 1, pixels, pixels, (1, 1), None, 0, (LayerPlan(maps), *cheap), total=total)
        options = [option for option in cheap if site.macs(option, maps) <= most]
        if options:
            sites[name] = replace(site, options=(LayerPlan(maps), *options))
    return sites


def options_of(conv: nn.Conv2d, inner: bool, round_to: int) -> Iterable[LayerPlan]:
    """What a convolution can become: whole, with maps dropped, with pointwise ghosts, with the paper's."""
    maps, per_map = conv.out_channels, conv.weight[0].numel()
    yield LayerPlan(maps)
    counts = kept_counts(maps, round_to)
    if inner:
        yield from (LayerPlan(kept, dropped=maps - kept) for kept in counts)
    for kept in counts:
        pointwise = kept * per_map + (maps - kept) * kept
        if kept >= LEAST_INTRINSIC * maps and pointwise < maps * per_map:
            yield LayerPlan(kept, maps - kept, cheap="pointwise")
    half = intrinsic_channels(maps, 2)
    if per_map > 9:
        yield LayerPlan(half, maps - half, cheap="depthwise")


def merging_options(
    conv: nn.Conv2d, options: Sequence[LayerPlan], pixels: int, input_pixels: int, round_to: int
) -> Iterator[LayerPlan]:
    """A convolution's options but those of depthwise ghosts, with its inputs merged, too, where that is cheaper."""
    taps = math.prod(conv.kernel_size)
    if conv.in_channels < NARROWEST or taps == 1:  # merged to m, a 1×1 convolution is pointwise ghosts of m maps
        return
    for option, merged in itertools.product(options, kept_counts(conv.in_channels, round_to)):
        cost = merged * (conv.in_channels * input_pixels + option.kept * taps * pixels)
        if option.cheap != "depthwise" and cost < conv.in_channels * option.kept * taps * pixels:
            yield replace(option, merged=merged)


def kept_counts(maps: int, round_to: int) -> list[int]:
    """The numbers that the shares come to, each once, the most first."""
    step = step_of(maps, round_to)
    counts = {max(step, step * round(maps * share / step)) for share in SHARES}
    return sorted((kept for kept in counts if kept < maps), reverse=True)


def plan_of(sites: Mapping[str, Site], chosen: Mapping[str, int]) -> dict[str, LayerPlan]:
    """The options of these numbers."""
    return {name: site.options[chosen[name]] for name, site in sites.items()}


def inputs_left(sites: Mapping[str, Site], plans: Mapping[str, LayerPlan], name: str) -> int:
    """How many maps a convolution gets where a plan is followed."""
    site = sites[name]
    if site.producer is None:
        return site.inputs
    before = sites[site.producer]
    return site.inputs - plans[site.producer].dropped * site.inputs // before.maps
