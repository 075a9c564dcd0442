"""A network in the shape of a plan, with arbitrary weights: for timing and counting."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ghostify.changes import AnyPlan, LayerPlan
from ghostify.changes.layer_plan import changed_blocks, outside_changed_blocks
from ghostify.structure.channels import drop_channels_of_, find_dropped
from ghostify.structure.surgery import conv_at, replace_modules_


def untrained(model: nn.Module, plans: Mapping[str, AnyPlan], example: Tensor) -> nn.Module:
    """Copy a network in the shape of a plan.

    Args:
        plans: By module name, as ``convert`` takes them.
        example: One input ``[1, channels, height, width]``.
    """
    shaped = copy.deepcopy(model).eval()
    plans = outside_changed_blocks(plans)
    dropping = {name: plan for name, plan in plans.items() if isinstance(plan, LayerPlan) and plan.dropped}
    for name, place in find_dropped(model, example, dropping).items():
        channels = dropping[name].channels
        drop_channels_of_(shaped, place, torch.arange(channels - dropping[name].dropped, channels, device="cpu"))
    new: dict[nn.Module, nn.Module] = {
        shaped.get_submodule(name): change.untrained() for name, change in changed_blocks(plans).items()
    }
    for name, plan in plans.items():
        if isinstance(plan, LayerPlan):
            conv = conv_at(shaped, name)
            layer = plan.untrained(conv)
            if layer is not conv:
                new[conv] = layer
    return replace_modules_(shaped, {old: layer.to(example.device) for old, layer in new.items()})
