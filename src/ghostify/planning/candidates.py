"""The convolutions and residual blocks of a network that may change, and the options of each."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ghostify.changes import AnyPlan, BlockPlan, Convolution, LayerPlan, ResidualBlock, Sizes
from ghostify.changes.change import BlockChange, InputChange, OutputChange, TargetKind
from ghostify.changes.ratio import GhostRatio
from ghostify.changes.registry import kinds_of
from ghostify.measure.count import Count
from ghostify.structure.blocks import Calls, find_blocks, record_calls, times_called
from ghostify.structure.channels import PrunableChannels
from ghostify.structure.residual import residual_sums
from ghostify.structure.surgery import has_hooks, replaceable
from ghostify.transform.changeable import (
    NOT_PLAINLY,
    changeable_convolutions,
    matches,
    may_be_fitted,
    prunable_among,
    reasons_to_leave,
)

# Convolutions whose reasons a message names.
NAMED = 3


@dataclass(frozen=True)
class Offer:
    """The kinds of changes that a plan chooses from, and their sizes."""

    outputs: tuple[type[OutputChange], ...]
    inputs: tuple[type[InputChange], ...]
    blocks: tuple[type[BlockChange], ...]
    sizes: Sizes

    @property
    def kinds(self) -> list[str]:
        """Names of the kinds."""
        return sorted(kind.kind for kind in (*self.outputs, *self.inputs, *self.blocks))


def offer_for(
    target: TargetKind, *, inputs: bool | None = None, blocks: bool | None = None, round_to: int = 1
) -> Offer:
    """The registered kinds of changes that serve a target.

    Args:
        inputs: Offer all kinds of input changes, or none; None: those that are for the target.
        blocks: Offer all kinds of block changes, or none; None: those that are for the target.
    """

    def chosen(base: type, asked: bool | None) -> tuple[Any, ...]:
        return tuple(kind for kind in kinds_of(base) if (target in kind.default_for if asked is None else asked))

    return Offer(chosen(OutputChange, None), chosen(InputChange, inputs), chosen(BlockChange, blocks), Sizes(round_to))


@dataclass(frozen=True)
class Candidate:
    """A layer that may change.

    Args:
        layer: Convolution or residual block.
        options: Plans for it; the first changes nothing.
    """

    layer: Convolution | ResidualBlock
    options: tuple[AnyPlan, ...]


Candidates = Mapping[str, Candidate]


def find_candidates(
    model: nn.Module,
    example: Tensor,
    counted: Count,
    offer: Offer,
    *,
    skip: Sequence[str] = (),
    images: Tensor | None = None,
) -> dict[str, Candidate]:
    """The layers that may change, in the network's order; a block before the convolutions inside.

    Args:
        example: One input ``[1, channels, height, width]``.
        counted: The network's multiply-adds for such an input.
        images: A few inputs, on which residual blocks are found; None leaves these as they are.
    """
    convs = changeable_convolutions(model, skip, example)
    places = prunable_among(model, convs, example, skip)
    calls = record_calls(model, example)
    run = {name: conv for name, conv in convs.items() if conv in calls and calls[conv].all_plain}
    blocks = {} if images is None else candidate_blocks(model, list(run), counted, offer, skip, images)
    candidates: dict[str, Candidate] = {}
    for layer in convolutions(run, counted, calls, places, list(blocks)):
        if layer.block is not None:
            candidates[layer.block] = blocks[layer.block]
        candidates[layer.name] = Candidate(layer, tuple(options_of(layer, offer)))
    return candidates


def why_nothing(model: nn.Module, example: Tensor, skip: Sequence[str]) -> str:
    """Why no convolution can be made cheaper: the first few by name."""
    reasons = reasons_to_leave(model, GhostRatio(), skip, example)
    plain = times_called(model, example)
    reasons |= {name: NOT_PLAINLY for name, reason in reasons.items() if may_be_fitted(reason) and name not in plain}
    found = [f"{name}: {reason or 'no change of it is cheaper'}" for name, reason in reasons.items()]
    return "; ".join(found[:NAMED]) or "it has none at all"


def convolutions(
    convs: Mapping[str, nn.Conv2d],
    counted: Count,
    calls: Mapping[nn.Module, Calls],
    places: Mapping[str, PrunableChannels | str],
    blocks: Sequence[str],
) -> Iterator[Convolution]:
    """The descriptions of convolutions that changes take."""
    prunable = {name: place for name, place in places.items() if isinstance(place, PrunableChannels)}
    producers = {consumer: name for name, channels in prunable.items() for consumer in channels.consumers}
    for name, conv in convs.items():
        followers = prunable[name].followers if name in prunable else ()
        consumers = prunable[name].consumers if name in prunable else ()
        absorbers = tuple(consumer for consumer in consumers if consumer not in convs)
        producer = producers.get(name)
        yield Convolution(
            name,
            conv.in_channels,
            conv.out_channels,
            math.prod(conv.kernel_size),
            # Of all that the one image became: parts of it may be several in a batch.
            sum(call.output[:, 0].numel() for call in calls[conv].plain),
            sum(call.input[:, 0].numel() for call in calls[conv].plain),
            tuple(conv.stride),
            unprunable="" if name in prunable else str(places[name]),
            producer=producer if producer in convs else None,
            absorbers=absorbers,
            unit=prunable[name].unit if name in prunable else 1,
            following_macs=sum(counted.of(layer)[0] for layer in (*followers, *absorbers)) // conv.out_channels,
            block=next((block for block in blocks if name.startswith(f"{block}.")), None),
        )


def candidate_blocks(
    model: nn.Module, convs: Sequence[str], counted: Count, offer: Offer, skip: Sequence[str], images: Tensor
) -> dict[str, Candidate]:
    """The residual blocks that may change as a whole."""
    found = {}
    rows = {row.name: row for row in counted.layers}
    sums = residual_sums(model, find_blocks(model, convs, images), images)
    free = [name for name in sums if not any(map(has_hooks, model.get_submodule(name).modules()))]
    changing = replaceable(model, free, images[:1])
    for name, total in sums.items():
        if name not in changing or any(matches(inside, skip) for inside in rows if inside.startswith(f"{name}.")):
            continue
        pixels = math.prod((rows[total.conv].output_shape or ())[1:])
        block = ResidualBlock(name, len(total.gain), pixels, counted.of(name)[0], total)
        options = [BlockPlan(change) for kind in offer.blocks for change in kind.offered(block, offer.sizes)]
        if options:
            found[name] = Candidate(block, (BlockPlan(), *options))
    return found


def options_of(layer: Convolution, offer: Offer) -> Iterator[LayerPlan]:
    """The options of a convolution: each output change, alone and with each input change."""
    outputs = [change for kind in offer.outputs for change in kind.offered(layer, offer.sizes)]
    yield from map(LayerPlan, outputs)
    for kind in offer.inputs:
        for output in outputs:
            if output.takes_input_changes:
                yield from (LayerPlan(output, change) for change in kind.offered(layer, output, offer.sizes))


def inputs_left(candidates: Candidates, plans: Mapping[str, AnyPlan], name: str) -> int:
    """Number of input channels of a layer under a plan."""
    layer = candidates[name].layer
    if layer.producer is None:
        return layer.in_channels
    return less_dropped(layer.in_channels, plans[layer.producer], candidates[layer.producer])


def less_dropped(in_channels: int, plan: AnyPlan, producer: Candidate) -> int:
    """Number of input channels that a producer's plan leaves; a flattened map is several."""
    assert isinstance(producer.layer, Convolution)
    return in_channels - plan.dropped * in_channels // producer.layer.out_channels
