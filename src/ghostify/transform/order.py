"""Fold the order of ghosts' channels into the layers that take them, where these are known."""

import copy

import torch
from torch import Tensor, nn

from ghostify.layers import GhostConv2d
from ghostify.modes import evaluating
from ghostify.structure.channels import PrunableChannels, find_prunable
from ghostify.structure.surgery import close, tensors_in
from ghostify.structure.trace import row_dim


@torch.no_grad()
def fold_orders(ghost: nn.Module, original: nn.Module, example: Tensor) -> nn.Module:
    """Copy a ghosted network, its ghosts' orders folded into the weights of the layers that take their channels.

    Channels of a residual sum, of a concatenation or of an output have to stay in their places: those ghosts go on
    putting theirs in order.

    Args:
        ghost: Network with ``ordered`` ``GhostConv2d``; left untouched.
        original: The network before, with its convolutions under the same names.
        example: One batch for both.
    Returns:
        The copy; or ``ghost`` itself where nothing could be folded.
    """
    ordered = [name for name, m in ghost.named_modules() if isinstance(m, GhostConv2d) and m.order is not None]
    convs = [name for name in ordered if isinstance(original.get_submodule(name), nn.Conv2d)]
    places = find_prunable(original, example, convs, dropping=False)
    # A layer of another kind may take its channels in a way that is not known here.
    known = (GhostConv2d, nn.Conv2d, nn.Linear)
    prunable = [
        place
        for place in places.values()
        if isinstance(place, PrunableChannels)
        and all(isinstance(ghost.get_submodule(name), known) for name in place.consumers)
    ]
    if not prunable:
        return ghost
    folded = copy.deepcopy(ghost)
    for place in prunable:
        fold_(folded, place)
    # Code may read the numbers of channels or their places.
    with evaluating(ghost, folded):
        outputs = zip(tensors_in(folded(example.clone())), tensors_in(ghost(example.clone())), strict=True)
    same = all(close(output, target) for output, target in outputs)
    return folded if same else ghost


def fold_(model: nn.Module, place: PrunableChannels) -> None:
    """Fold the order of one ghost in place."""
    ghost = model.get_submodule(place.producer)
    assert isinstance(ghost, GhostConv2d)
    assert ghost.order is not None
    place_of = ghost.order.argsort()  # the original place of each channel as it is made
    ghost.order = None
    for name in place.followers:
        follower = model.get_submodule(name)
        for tensor in (*follower.parameters(recurse=False), *follower.buffers(recurse=False)):
            if tensor.ndim:  # all but BatchNorm's counter have a row for each channel
                tensor.copy_(tensor.index_select(row_dim(tensor), place_of))
    for name in place.consumers:
        consumer = model.get_submodule(name)
        if isinstance(consumer, GhostConv2d):
            consumer = consumer.primary if consumer.merge is None else consumer.merge
        weight = consumer.weight
        assert isinstance(weight, Tensor)
        # A linear layer behind a flattening has several inputs for each channel.
        weight.copy_(weight.unflatten(1, (len(place_of), -1))[:, place_of].flatten(1, 2))
