"""A tensor's maps while a graph is written anew: in which nodes they are, and which convolutions made them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn


@dataclass
class Conv:
    """A convolution of the new graph, in float64 until it is built."""

    name: str
    weight: Tensor
    bias: Tensor | None
    geometry: tuple[Any, Any, Any]  # stride, padding, dilation
    groups: int
    dtype: torch.dtype
    source: fx.Node
    node: fx.Node
    old: str  # name of the node in the graph before

    def same_as(self, other: "Conv") -> bool:
        """Whether it is the same function."""
        if (self.geometry, self.groups, self.dtype) != (other.geometry, other.groups, other.dtype):
            return False
        if (self.bias is None) != (other.bias is None) or not torch.equal(self.weight, other.weight):
            return False
        return self.bias is None or other.bias is None or torch.equal(self.bias, other.bias)

    def build(self) -> nn.Conv2d:
        maps, inputs, height, width = self.weight.shape
        stride, padding, dilation = self.geometry
        conv = nn.Conv2d(
            inputs * self.groups,
            maps,
            (height, width),
            stride,
            padding,
            dilation,
            self.groups,
            self.bias is not None,
            device="meta",
        )
        conv.weight = nn.Parameter(self.weight.to(self.dtype).contiguous(), requires_grad=False)
        if self.bias is not None:
            conv.bias = nn.Parameter(self.bias.to(self.dtype), requires_grad=False)
        return conv


@dataclass(frozen=True)
class Part:
    """Some of a tensor's maps.

    Args:
        node: Of the new graph.
        maps: How many.
        convs: Those whose sum they are, while nothing acted on it and nothing else sees it.
        makers: Nodes of the old graph that are convolutions of whose sum each map is one, whatever acted on it since.
    """

    node: fx.Node
    maps: int
    convs: tuple[Conv, ...] = ()
    makers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Maps:
    """A tensor ``[batch, maps, ...]``, its maps in one or several tensors.

    Args:
        parts: These, in order.
        ghost: The last ghost layer on the way to it, for the report.
        split: Whether they stay apart after a BatchNorm.
    """

    parts: tuple[Part, ...]
    ghost: str | None = None
    split: bool = True

    @property
    def bounds(self) -> list[int]:
        """Where parts begin and end."""
        return [sum(part.maps for part in self.parts[:i]) for i in range(len(self.parts) + 1)]


@dataclass(frozen=True)
class Constant:
    """A parameter or buffer of the old graph."""

    name: str
    tensor: Tensor
