"""Layers that convolve in ways of their own, as packages and users have them, and a network of each."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, weight_norm


class Same(nn.Conv2d):
    """Pads by the size of what it gets, as TensorFlow's SAME does."""

    def forward(self, x: Tensor) -> Tensor:
        sides: list[int] = []
        for axis in (1, 0):
            size, step, filters = x.shape[2 + axis], self.stride[axis], self.kernel_size[axis]
            total = max((math.ceil(size / step) - 1) * step + (filters - 1) * self.dilation[axis] + 1 - size, 0)
            sides += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, sides), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Sided(nn.Conv2d):
    """Pads one side more than the other, by a module of its own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.static_padding = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.static_padding(x))


class Standardised(nn.Conv2d):
    """Convolves by filters of mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Adapted(nn.Conv2d):
    """Adds two thin matrices to its weight."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.down = nn.Parameter(torch.randn(2, self.weight[0].numel()) / 9)
        self.up = nn.Parameter(torch.randn(self.out_channels, 2) / 9)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight + (self.up @ self.down).view_as(self.weight), self.bias)


class Named(nn.Conv2d):
    """Only has settings and attributes of its own."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=1, padding_mode="reflect")
        self.label = "named"


class Activated(nn.Conv2d):
    """Has an activation inside."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu_()


class Gained(nn.Conv2d):
    """Convolves by filters that follow from what it gets."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * x.mean().sigmoid(), self.bias, self.stride, self.padding)


class Beside(nn.Conv2d):
    """Adds what two convolutions beside it give."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.down = nn.Conv2d(self.in_channels, 2, self.kernel_size, self.stride)  # type: ignore[arg-type]  # torch annotates tuple[int, ...]
        self.up = nn.Conv2d(2, self.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.up(self.down(x))


class Noisy(nn.Conv2d):
    """Draws noise for its filters."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight + torch.randn_like(self.weight), self.bias, self.stride)


class Product(nn.Conv2d):
    """Convolves by a matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        columns = F.unfold(x, self.kernel_size, stride=self.stride)
        size = [(n - k) // s + 1 for n, k, s in zip(x.shape[2:], self.kernel_size, self.stride, strict=True)]
        return (self.weight.flatten(1) @ columns).unflatten(2, size)


class Growing(nn.Conv2d):
    """Pads by a quarter of what it gets."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, [x.shape[3] // 4] * 4))


def with_spectral_norm(*args: Any, **options: Any) -> nn.Module:
    return parametrizations.spectral_norm(nn.Conv2d(*args, **options))


def with_weight_norm(*args: Any, **options: Any) -> nn.Module:
    return weight_norm(nn.Conv2d(*args, **options))


def with_masks(*args: Any, **options: Any) -> nn.Module:
    conv = nn.Conv2d(*args, **options)
    prune.l1_unstructured(conv, "weight", 0.5)
    prune.random_unstructured(conv, "bias", 0.25)
    return conv


PLAIN: dict[str, Callable[..., nn.Module]] = {
    "same": Same,
    "sided": Sided,
    "standardised": Standardised,
    "adapted": Adapted,
    "named": Named,
    "spectral": with_spectral_norm,
    "normed": with_weight_norm,
    "masked": with_masks,
}
NOT_PLAIN: dict[str, tuple[Callable[..., nn.Module], str]] = {
    "activated": (Activated, "it does more than to convolve"),
    "gained": (Gained, "its filters change with what it gets"),
    "beside": (Beside, "it computes 3 convolutions, not one"),
    "noisy": (Noisy, "its filters change with what it gets"),
    "product": (Product, "it computes no convolution"),
    "growing": (Growing, "its padding follows the size of the maps in another way than SAME"),
}


class Network(nn.Module):
    """Two layers of a kind, and a plain convolution behind them."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.first, self.norm, self.second = kind(3, 16, 3, stride=2), nn.BatchNorm2d(16), kind(16, 16, 3)
        self.third, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.norm(self.first(x)).relu()).relu()
        return self.head(self.third(x).relu().mean((2, 3)))


def __getattr__(name: str) -> Any:
    """A network by the name of a kind, for ``create_model``."""
    if name in PLAIN:
        return partial(Network, PLAIN[name])
    raise AttributeError(name)
