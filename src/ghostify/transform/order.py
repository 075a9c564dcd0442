"""Let ghosts leave their maps in the order in which they make them, where whatever takes them can be told."""

import copy

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ghostify.errors import InputError
from ghostify.layers import GhostConv2d
from ghostify.modes import evaluating
from ghostify.structure.channels import PrunableChannels, find_prunable


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
    found = {name: original.get_submodule(name) for name in ordered}
    try:
        places = find_prunable(
            original,
            example,
            {name: conv for name, conv in found.items() if isinstance(conv, nn.Conv2d)},
            dropping=False,
        )
    except InputError:
        return ghost
    inner = [place for place in places.values() if isinstance(place, PrunableChannels)]
    if not inner:
        return ghost
    folded = copy.deepcopy(ghost)
    for place in inner:
        fold_(folded, place)
    # The tracer may take an operator that moves maps for one that does not.
    with evaluating(ghost, folded):
        outputs = zip(tree_leaves(folded(example.clone())), tree_leaves(ghost(example.clone())), strict=True)
    same = all(close(given, wanted) for given, wanted in outputs if isinstance(wanted, Tensor))
    return folded if same else ghost


def close(given: Tensor, wanted: Tensor) -> bool:
    """Whether tensors differ by rounding only, however small their numbers are."""
    if not (wanted.is_floating_point() and wanted.numel()):
        return torch.equal(given, wanted)
    spread = float((wanted - wanted.mean()).abs().max())
    return torch.allclose(given, wanted, rtol=1e-3, atol=1e-3 * spread)


def fold_(model: nn.Module, place: PrunableChannels) -> None:
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
        if isinstance(consumer, GhostConv2d):
            consumer = consumer.primary if consumer.merge is None else consumer.merge
        weight = consumer.weight
        assert isinstance(weight, Tensor)
        # A linear layer behind a flattening has several inputs for each map.
        weight.copy_(weight.unflatten(1, (len(place_of), -1))[:, place_of].flatten(1, 2))
