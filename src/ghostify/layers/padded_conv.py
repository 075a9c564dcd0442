"""PaddedConv2d: a Conv2d with other zeros on each side, or as many as the size of the maps asks for."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Sides: TypeAlias = tuple[int, int, int, int]


class PaddedConv2d(nn.Conv2d):
    """A ``torch.nn.Conv2d`` that pads with zeros in a way that PyTorch's own cannot.

    Args:
        args: Those of ``Conv2d`` up to the stride.
        padding: Zeros on the left, on the right, at the top and at the bottom; or "same", which for any stride gives
            ``ceil(size / stride)`` pixels as TensorFlow's SAME does, one zero more at the right and at the bottom
            where their number is odd.
        options: The other arguments of ``Conv2d``.
    Shape:
        As ``Conv2d``'s for maps that were padded before.
    Raises:
        ValueError: If it is to pad with something else than zeros.
    Example:
        >>> [PaddedConv2d(3, 8, 3, stride=2, padding="same")(torch.ones(1, 3, n, n)).shape[2] for n in (7, 8, 9)]
        [4, 4, 5]
        >>> PaddedConv2d(3, 8, 3, padding=(0, 1, 0, 1))(torch.ones(1, 3, 8, 8)).shape[2]
        7
    """

    def __init__(self, *args: Any, padding: Literal["same"] | Sides, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.padding_mode != "zeros":
            raise ValueError(f"padding_mode is {self.padding_mode!r}: expected zeros where padding is {padding!r}")
        self.padding: Any = padding

    def sides(self, height: int, width: int) -> list[int]:
        """Zeros on the left, right, top and bottom of maps of this size; both may be symbolic."""
        if self.padding != "same":
            return list(self.padding)
        return [
            zeros
            for axis, size in ((1, width), (0, height))
            for zeros in same_padding(size, self.kernel_size[axis], self.stride[axis], self.dilation[axis])
        ]

    def padded(self, x: Tensor) -> Tensor:
        """``[..., height, width]`` with the zeros around."""
        return F.pad(x, self.sides(x.shape[-2], x.shape[-1]))

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(self.padded(input), weight, bias, self.stride, 0, self.dilation, self.groups)


def same_padding(size: int, kernel_size: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """The zeros before and behind ``size`` pixels with which a filter gives ``ceil(size / stride)``.

    Example:
        >>> same_padding(8, 3, 2), same_padding(7, 3, 2), same_padding(8, 1, 2)
        ((0, 1), (1, 1), (0, 0))
    """
    spread = dilation * (kernel_size - 1)
    zeros: Any = spread - (size - 1) % stride
    if spread < stride - 1:  # else it cannot be negative, and need not be asked for a symbolic size
        zeros = torch.sym_max(zeros, 0)
    return zeros // 2, zeros - zeros // 2


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    padding: int | str | Sequence[int] = 0,
    **options: Any,
) -> nn.Conv2d:
    """A ``Conv2d``, or a ``PaddedConv2d`` where the padding is one that only this has."""
    strides = stride if isinstance(stride, Sequence) else (stride,)
    sided = isinstance(padding, Sequence) and len(padding) == 4 and not isinstance(padding, str)
    layer: Any = PaddedConv2d if sided or (padding == "same" and set(strides) != {1}) else nn.Conv2d
    made: nn.Conv2d = layer(in_channels, out_channels, kernel_size, stride, padding=padding, **options)
    return made
