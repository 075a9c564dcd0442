"""A network in the shape that a plan gives it, its weights of no use: for timing and counting."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ghostify.layers import GhostBlock, GhostConv2d
from ghostify.structure.channels import Structure
from ghostify.structure.surgery import conv_at, replace_modules_
from ghostify.transform.plan import LayerPlan, outside_ghost_blocks


def untrained(model: nn.Module, plans: Mapping[str, LayerPlan], example: Tensor) -> nn.Module:
    """Copy a network with as many maps kept, ghosted, dropped and merged as planned, whichever they are.

    Args:
        plans: By module name, as of ``convert``.
        example: One input ``[1, channels, height, width]``.
    """
    shaped = copy.deepcopy(model).eval()
    plans = outside_ghost_blocks(plans)
    if any(plan.dropped for plan in plans.values()):
        structure = Structure(shaped, example)
        for name, plan in plans.items():
            if plan.dropped:
                structure.drop_(conv_at(shaped, name), torch.arange(plan.maps - plan.dropped, plan.maps))
    ghosts: dict[nn.Module, nn.Module] = {}
    for name, plan in plans.items():
        if plan.of_block:
            # Whether a ReLU is behind it is nothing to the time.
            block = GhostBlock(plan.maps, plan.kernel_size).eval()
            block.cheap.reset_parameters()  # an exported file has equal tensors once, and layers are told by theirs
            ghosts[shaped.get_submodule(name)] = block
        elif plan.ghosted or plan.merged is not None:
            conv, cheap = conv_at(shaped, name), plan.cheap_or("pointwise")
            ghosts[conv] = GhostConv2d.like(conv, cheap=cheap, intrinsic=plan.kept, merged=plan.merged).eval()
    return replace_modules_(shaped, ghosts)
