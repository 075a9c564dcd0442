"""The BatchNorms right behind a network's convolutions."""

import torch
from torch import Tensor, nn

from ghostify.structure.blocks import record_calls


def norm_gains(model: nn.Module, example: Tensor) -> dict[str, Tensor]:
    """The factors of the BatchNorms right behind convolutions, one for each channel, by name of the convolution."""
    calls = record_calls(model, example)
    names = {module: name for name, module in model.named_modules()}
    makers = {
        id(call.output): (names[m], call) for m, c in calls.items() if isinstance(m, nn.Conv2d) for call in c.plain
    }
    gains = {}
    for module, ran in calls.items():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            for call in ran.plain:
                maker, before = makers.get(id(call.input), ("", None))
                if call.chained_to(before):
                    weight = torch.ones_like(module.running_var) if module.weight is None else module.weight.detach()
                    gains[maker] = weight.abs() / (module.running_var + module.eps).sqrt()
    return gains
