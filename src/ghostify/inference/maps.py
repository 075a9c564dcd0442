"""A tensor's maps while a graph is rewritten: the nodes that hold them, and the convolutions that made them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn


@dataclass(frozen=True)
class Geometry:
    """How a convolution's filters pass over its input, in the spelling of ``torch.nn.Conv2d``."""

    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1


@dataclass(frozen=True)
class Filters:
    """A convolution's numbers, in float64 until it is built.

    Args:
        weight: ``[maps, input maps / groups, height, width]``.
        bias: ``[maps]``.
        groups: Groups of input and output maps.
        geometry: How they pass over the input.
        dtype: Data type of the layer that is built.
    """

    weight: Tensor
    bias: Tensor | None
    groups: int
    geometry: Geometry
    dtype: torch.dtype

    def split_outputs(self, maps: Sequence[int]) -> list["Filters"]:
        """Several convolutions that make so many of the maps each."""
        biases = [None] * len(maps) if self.bias is None else self.bias.split(list(maps))
        pieces = zip(self.weight.split(list(maps)), biases, strict=True)
        return [replace(self, weight=weight, bias=bias) for weight, bias in pieces]

    def split_inputs(self, maps: Sequence[int]) -> list["Filters"]:
        """Several convolutions that take so many of the input maps each and give the maps as their sum.

        The first has the bias.
        """
        return [
            replace(self, weight=weight, bias=None if place else self.bias)
            for place, weight in enumerate(self.weight.split(list(maps), 1))
        ]

    def scaled(self, scale: Tensor) -> "Filters":
        """Filters that make the maps times ``scale``, ``[maps]``."""
        bias = None if self.bias is None else self.bias * scale
        return replace(self, weight=self.weight * scale[:, None, None, None], bias=bias)

    def shifted(self, shift: Tensor) -> "Filters":
        """Filters that make the maps plus ``shift``, ``[maps]``."""
        return replace(self, bias=shift if self.bias is None else self.bias + shift)

    def same_as(self, other: "Filters") -> bool:
        """True if both are the same function."""
        if (self.geometry, self.groups, self.dtype) != (other.geometry, other.groups, other.dtype):
            return False
        if (self.bias is None) != (other.bias is None) or not torch.equal(self.weight, other.weight):
            return False
        return self.bias is None or other.bias is None or torch.equal(self.bias, other.bias)

    def build(self) -> nn.Conv2d:
        """The layer that computes it."""
        maps, inputs, height, width = self.weight.shape
        conv = nn.Conv2d(
            inputs * self.groups,
            maps,
            (height, width),
            self.geometry.stride,
            self.geometry.padding,
            self.geometry.dilation,
            self.groups,
            self.bias is not None,
            device="meta",
        )
        conv.weight = nn.Parameter(self.weight.to(self.dtype).contiguous(), requires_grad=False)
        if self.bias is not None:
            conv.bias = nn.Parameter(self.bias.to(self.dtype), requires_grad=False)
        return conv


@dataclass
class Conv:
    """A convolution of the new graph, whose filters may still take in what follows.

    Args:
        name: Name of its module.
        filters: Its numbers, so far.
        node: Its node in the new graph.
        old: Name of the node in the old graph for which it stands, or of whose sum it is a part.
    """

    name: str
    filters: Filters
    node: fx.Node
    old: str


@dataclass(frozen=True)
class Part:
    """Some of a tensor's maps.

    Args:
        node: The node of the new graph that gives them.
        maps: Their number.
        convs: Convolutions whose sum they are, as long as nothing acts on that sum and nothing else reads it.
        makers: Names of the convolutions in the old graph whose sum they were at first, whatever acted on it since.
    """

    node: fx.Node
    maps: int
    convs: tuple[Conv, ...] = ()
    makers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Maps:
    """A tensor ``[batch, maps, ...]``, its maps in one or several tensors.

    Args:
        parts: These tensors, in order.
        ghost: The last ghost layer on the way to them, for the report.
        split: They stay apart after a BatchNorm.
    """

    parts: tuple[Part, ...]
    ghost: str | None = None
    split: bool = True

    @property
    def bounds(self) -> list[int]:
        """The places at which parts begin and end."""
        return [sum(part.maps for part in self.parts[:i]) for i in range(len(self.parts) + 1)]


@dataclass(frozen=True)
class Constant:
    """A parameter or buffer of the old graph."""

    name: str
    tensor: Tensor
