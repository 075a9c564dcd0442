"""The rival BALF: every convolution and linear layer as two of low rank, by González-Martínez 2025, arXiv:2509.25136.

A layer's weights, as a matrix, are factored where its inputs vary: by a singular value decomposition in coordinates in
which the second moments of the inputs are the identity, so that the error of the outputs is least for each rank. Ranks
are chosen for all layers at once, by a Lagrangian over multiply-adds, as the largest sum of the shares of energy kept.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from rivals import NotOffered
from torch import Tensor, nn

from ghostify import count
from ghostify.changes import registry
from ghostify.changes.change import Described
from ghostify.errors import InputError
from ghostify.layers.arguments import conv_arguments, linear_arguments
from ghostify.structure.surgery import replace_modules_

LEAST = 1e-10  # of a singular value of the inputs
STEPS = 100  # of the bisection


class LowRankConv2d(nn.Sequential):
    """A k×k convolution to ``rank`` channels of each group, and a 1×1 convolution to all."""

    def __init__(self, rank: int, in_channels: int, out_channels: int, bias: bool = True, **how: Any) -> None:
        groups = how.get("groups", 1)
        first = nn.Conv2d(in_channels, rank * groups, bias=False, **how)
        super().__init__(first, nn.Conv2d(rank * groups, out_channels, 1, groups=groups, bias=bias))

    @classmethod
    def like(cls, conv: nn.Conv2d, rank: int) -> Self:
        return cls(rank, **conv_arguments(conv))

    @property
    def arguments(self) -> dict[str, Any]:
        first, second = self
        own = {"out_channels": second.out_channels, "bias": second.bias is not None}
        return {"rank": first.out_channels // first.groups, **conv_arguments(first), **own}


class LowRankLinear(nn.Sequential):
    """A linear layer to ``rank`` numbers, and one to all."""

    def __init__(self, rank: int, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(nn.Linear(in_features, rank, bias=False), nn.Linear(rank, out_features, bias=bias))

    @classmethod
    def like(cls, linear: nn.Linear, rank: int) -> Self:
        return cls(rank, **linear_arguments(linear))

    @property
    def arguments(self) -> dict[str, Any]:
        first, second = self
        own = {"out_features": second.out_features, "bias": second.bias is not None}
        return {"rank": first.out_features, "in_features": first.in_features, **own}


@registry.register
class LowRank(NotOffered):
    """Makes its layers known to network files; plans do not offer it."""

    kind = "low rank"
    layers: ClassVar[Described] = {
        LowRankConv2d: lambda layer: layer.arguments,
        LowRankLinear: lambda layer: layer.arguments,
    }


@dataclass(frozen=True)
class Factors:
    """A layer's weights in factors, by falling energy.

    Args:
        first: ``[groups, inputs, ranks]``, inputs being those of a group times the kernel's pixels.
        second: ``[groups, ranks, outputs of a group]``.
        energy: Share of the outputs' second moment that so many ranks keep, ``[ranks]``.
        macs: Multiply-adds at so many ranks, ``[ranks]``; never more than those of the layer as it is.
    """

    first: Tensor
    second: Tensor
    energy: Tensor
    macs: Tensor

    def of_rank(self, layer: nn.Module, rank: int) -> nn.Module:
        """The two layers; the layer itself where they would not be cheaper."""
        groups, inputs, _ = self.first.shape
        outputs = self.second.shape[2]
        if rank * (inputs + outputs) >= inputs * outputs:
            return layer
        first = self.first[:, :, :rank].transpose(1, 2).reshape(groups * rank, inputs)
        second = self.second[:, :rank].transpose(1, 2).reshape(groups * outputs, rank)
        made = LowRankConv2d.like(layer, rank) if isinstance(layer, nn.Conv2d) else LowRankLinear.like(layer, rank)
        with torch.no_grad():
            made[0].weight.copy_(first.view_as(made[0].weight))
            made[1].weight.copy_(second.view_as(made[1].weight))
            if layer.bias is not None:
                made[1].bias.copy_(layer.bias)
        return made


def balf(original: nn.Module, images: Sequence[Tensor], macs: int) -> nn.Module:
    """The network with so many multiply-adds.

    Raises:
        InputError: If that is out of reach.
    """
    model = copy.deepcopy(original).eval()
    layers = {name: module for name, module in model.named_modules() if can_be_factored(module)}
    factors = factored(model, layers, images)
    shape = tuple(images[0].shape[1:])
    rest = count(model, shape).macs - sum(int(one.macs[-1]) for one in factors.values())
    ranks = allocated(list(factors.values()), macs - rest)
    new = {
        layers[name]: one.of_rank(layers[name], rank) for (name, one), rank in zip(factors.items(), ranks, strict=True)
    }
    return replace_modules_(model, {old: layer for old, layer in new.items() if layer is not old})


def can_be_factored(module: nn.Module) -> bool:
    """True for plain convolutions and linear layers; a depthwise convolution has rank 1 as it is."""
    if type(module) is nn.Conv2d:
        return module.padding_mode == "zeros" and module.out_channels > module.groups
    return type(module) is nn.Linear


@torch.no_grad()
def factored(model: nn.Module, layers: dict[str, nn.Module], images: Sequence[Tensor]) -> dict[str, Factors]:
    """The factors of all layers, where their inputs are those that these images give."""
    moments: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, int] = {}  # pixels of an image

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        columns = columns_of(layer, inputs[0])
        moments[layer] = moments.get(layer, 0) + columns @ columns.transpose(1, 2)
        outputs[layer] = columns.shape[2] // len(inputs[0])

    hooks = [layer.register_forward_hook(look) for layer in layers.values()]
    for batch in images:
        model(batch)
    for hook in hooks:
        hook.remove()
    return {name: factors_of(layer, moments.pop(layer), outputs[layer]) for name, layer in layers.items()}


def columns_of(layer: nn.Module, x: Tensor) -> Tensor:
    """What each output is computed from: ``[groups, inputs, outputs' places]``."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, layer.in_features).transpose(1, 2)
    assert isinstance(layer, nn.Conv2d)
    how = {"padding": layer.padding, "stride": layer.stride, "dilation": layer.dilation}
    if layer.kernel_size == (1, 1) and layer.padding == (0, 0):
        columns = x[:, :, :: layer.stride[0], :: layer.stride[1]].flatten(2)
    else:
        columns = nn.functional.unfold(x, layer.kernel_size, **how)
    return columns.transpose(0, 1).flatten(1).unflatten(0, (layer.groups, -1))


def factors_of(layer: nn.Module, moments: Tensor, pixels: int) -> Factors:
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    weights = layer.weight.flatten(1).unflatten(0, (groups, -1)).transpose(1, 2).double()  # [groups, inputs, outputs]
    values, vectors = torch.linalg.eigh(moments.double())
    scales = values.clamp_min(0).sqrt()
    there = scales > LEAST * scales.amax()
    to_white = torch.where(there, scales, 0).unsqueeze(2) * vectors.transpose(1, 2)
    from_white = vectors * torch.where(there, 1 / scales, 0).unsqueeze(1)
    left, singular, right = torch.linalg.svd(to_white @ weights, full_matrices=False)
    energy = singular.square().sum(0).cumsum(0)
    _, inputs, outputs = weights.shape
    ranks = torch.arange(1, len(energy) + 1)
    macs = pixels * groups * torch.minimum(ranks * (inputs + outputs), torch.tensor(inputs * outputs))
    root = singular.sqrt()
    first, second = from_white @ (left * root.unsqueeze(1)), root.unsqueeze(2) * right
    return Factors(first.float(), second.float(), energy / energy[-1].clamp_min(1e-300), macs)


def allocated(layers: Sequence[Factors], macs: int) -> list[int]:
    """The rank of each layer: the most energy for these multiply-adds, by bisection of the price of one."""

    def at(price: float) -> Iterator[int]:
        return (int((one.energy - price * one.macs).argmax()) for one in layers)

    def cost(price: float) -> int:
        return sum(int(one.macs[rank]) for one, rank in zip(layers, at(price), strict=True))

    low, high = 0.0, 1e-12
    while cost(high) > macs:
        low, high = high, 2 * high
        if high > 1:
            raise InputError(f"with one rank in each layer {cost(high):,} multiply-adds are left")
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) > macs else (low, middle)
    return [rank + 1 for rank in at(high)]
