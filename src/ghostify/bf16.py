"""Learning in bf16."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from ghostify.modes import OwnAutocast

Pair = Sequence[int]

# The largest kernel of stride 1 whose gradients are faster in bf16 than in float32.
FAST_KERNEL = 3


class LearningInBf16(OwnAutocast):
    """``torch.autocast`` to bf16, in which some depthwise convolutions on the CPU have their gradients in float32.

    Where they have strides, dilation or large kernels, oneDNN computes these gradients several times as slowly in bf16,
    most of all for maps with their channels last (seen on an Intel Xeon with AMX, PyTorch 2.15).

    Args:
        device: Where the network is.
        enabled: False: nothing changes.
        cache_enabled: As in ``torch.autocast``; see ``OwnAutocast``.
    """

    def __init__(self, device: torch.device, *, enabled: bool, cache_enabled: bool = True) -> None:
        super().__init__(device.type, torch.bfloat16, enabled=enabled, cache_enabled=cache_enabled)
        on_cpu = enabled and device.type == "cpu"
        self.depthwise: AbstractContextManager[Any] = DepthwiseGradientsInFloat32() if on_cpu else nullcontext()

    def __enter__(self) -> Any:
        entered = super().__enter__()
        self.depthwise.__enter__()
        return entered

    def __exit__(self, *raised: Any) -> Any:
        self.depthwise.__exit__(*raised)
        return super().__exit__(*raised)


class DepthwiseGradientsInFloat32(TorchFunctionMode):
    """Sends depthwise convolutions that run meanwhile and are slow to learn through ``DepthwiseConvolution``."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # As `nn.Conv2d` calls it; whoever calls it otherwise gets PyTorch's own.
        if func is torch.conv2d and len(args) == 7 and not kwargs:
            x, weight, bias, *where, groups = args
            if slow_to_learn(weight, *where) and torch.is_grad_enabled():
                return DepthwiseConvolution.apply(x, weight, bias, *where, groups)
        return func(*args, **(kwargs or {}))


def slow_to_learn(weight: Tensor, stride: Pair, padding: Pair | str, dilation: Pair) -> bool:
    """True for a depthwise convolution whose gradients oneDNN computes slowly in bf16."""
    depthwise = len(weight) > 1 and weight.shape[1] == 1
    simple = max(weight.shape[2:]) <= FAST_KERNEL and set(stride) == set(dilation) == {1}
    return depthwise and not simple and not isinstance(padding, str)


class DepthwiseConvolution(torch.autograd.Function):
    """A convolution in bf16 whose gradients are computed in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
    ) -> Tensor:
        x = x.bfloat16()
        ctx.save_for_backward(x, weight)
        ctx.bias_shape = None if bias is None else list(bias.shape)
        ctx.where = list(stride), list(padding), list(dilation), False, [0, 0], groups
        return torch.conv2d(x, weight.bfloat16(), bias, stride, padding, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        found = torch.ops.aten.convolution_backward(
            gradient.float(), x.float(), weight.float(), ctx.bias_shape, *ctx.where, ctx.needs_input_grad[:3]
        )
        return (*found, None, None, None, None)
