"""The BatchNorms right behind a network's convolutions."""

import copy
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ghostify.modes import evaluating
from ghostify.structure.blocks import record_calls
from ghostify.structure.surgery import replace_modules_, replaceable, tensors_in

CLOSE = 1e-3  # of the largest number of an output: more than rounding


def norm_gains(model: nn.Module, example: Tensor) -> dict[str, Tensor]:
    """The factors of the BatchNorms right behind convolutions, one for each channel, by name of the convolution."""
    gains = {}
    for maker, module in norms_behind(model, example):
        variance = module.get_buffer("running_var")
        weight = torch.ones_like(variance) if module.weight is None else module.weight.detach()
        gains[maker] = weight.abs() / (variance + module.eps).sqrt()
    return gains


def norms_behind(model: nn.Module, example: Tensor) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    """The BatchNorms with statistics that take a convolution's very output, and the convolution's name."""
    calls = record_calls(model, example)
    names = {module: name for name, module in model.named_modules()}
    makers = {
        id(call.output): (names[m], call) for m, c in calls.items() if isinstance(m, nn.Conv2d) for call in c.plain
    }
    for module, ran in calls.items():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            for call in ran.plain:
                maker, before = makers.get(id(call.input), ("", None))
                if call.chained_to(before):
                    yield maker, module


@torch.no_grad()
def without_norms(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy in eval mode that computes the same, with BatchNorms folded into the convolutions in front of them.

    The network itself, where that is not the same: where something else takes a convolution's output, too.
    """
    folded = copy.deepcopy(model).eval()
    names = {module: name for name, module in folded.named_modules()}
    found = [(name, norm) for name, norm in norms_behind(folded, example) if type(norm) is nn.BatchNorm2d]
    free = replaceable(folded, [names[norm] for _, norm in found], example)
    once = Counter(name for name, _ in found)
    gone: dict[nn.Module, nn.Module] = {}
    for name, norm in found:
        conv = folded.get_submodule(name)
        if type(conv) is nn.Conv2d and once[name] == 1 and names[norm] in free:
            both = fuse_conv_bn_eval(conv, norm)
            conv.weight, conv.bias = both.weight, both.bias
            gone[norm] = nn.Identity()
    replace_modules_(folded, gone)
    with evaluating(model):
        pairs = zip(tensors_in(model(example.clone())), tensors_in(folded(example.clone())), strict=True)
        same = all(torch.allclose(y, x, rtol=0, atol=CLOSE * float(x.abs().amax())) for x, y in pairs)
    return folded if same else model
