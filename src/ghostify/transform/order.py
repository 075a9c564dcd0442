"""Let ghosts leave their maps in the order in which they make them, where whatever takes them can be told."""

import copy

import torch
from torch import Tensor, nn

from ghostify.errors import InputError
from ghostify.layers import GhostConv2d
from ghostify.modes import evaluating
from ghostify.transform.inner import InnerMaps, Structure


@torch.no_grad()
def fold_orders(ghost: nn.Module, original: nn.Module, example: Tensor) -> nn.Module:
    """Copy a ghosted network, its ghosts' orders folded into the weights of the layers that take their maps.

    Maps of a residual sum, of a concatenation or of an output have to stay in their places: those ghosts
    go on putting their maps in order.

    Args:
        ghost: With ``GhostConv2d`` that are ``ordered``; left untouched.
        original: What it was made of, with its convolutions under the same names.
        example: One batch for both.
    Returns:
        The copy; or ``ghost`` itself where nothing could be folded.
    """
    ordered = [name for name, m in ghost.named_modules() if isinstance(m, GhostConv2d) and m.order is not None]
    try:
        structure = Structure(original, example)
    except InputError:
        return ghost
    convs = {name: original.get_submodule(name) for name in ordered}
    places = {name: structure.inner_maps(conv) for name, conv in convs.items() if isinstance(conv, nn.Conv2d)}
    inner = [place for place in places.values() if isinstance(place, InnerMaps)]
    if not inner:
        return ghost
    folded = copy.deepcopy(ghost)
    for place in inner:
        fold_(folded, place)
    # The tracer may take an operator that moves maps for one that does not.
    try:
        with evaluating(ghost, folded):
            torch.testing.assert_close(folded(example), ghost(example), rtol=1e-3, atol=1e-4)
    except AssertionError:
        return ghost
    return folded


def fold_(model: nn.Module, place: InnerMaps) -> None:
    """Fold the order of one ghost in place."""
    ghost = model.get_submodule(place.producer)
    assert isinstance(ghost, GhostConv2d)
    assert ghost.order is not None
    place_of = ghost.order.argsort()  # of each map as it is made, where it stood
    ghost.order = None
    for name in place.followers:
        follower = model.get_submodule(name)
        for tensor in (*follower.parameters(recurse=False), *follower.buffers(recurse=False)):
            if tensor.ndim:  # all but BatchNorm's counter have a row for each map
                tensor.copy_(tensor[place_of])
    for name in place.consumers:
        consumer = model.get_submodule(name)
        weight = (consumer.primary if isinstance(consumer, GhostConv2d) else consumer).weight
        assert isinstance(weight, Tensor)
        # A linear layer behind a flattening has several inputs for each map.
        weight.copy_(weight.unflatten(1, (len(place_of), -1))[:, place_of].flatten(1, 2))
