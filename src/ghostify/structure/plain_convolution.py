"""The plain convolution that a layer computes, found by watching it run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._python_dispatch import TorchDispatchMode

from ghostify.errors import first_sentence
from ghostify.layers import PaddedConv2d
from ghostify.layers.padded_conv import convolution, same_padding
from ghostify.modes import evaluating, random_state_kept, without_inference_mode
from ghostify.structure.surgery import has_hooks, has_own_methods

# PyTorch's own hooks that compute a weight from other tensors, and do nothing else.
WEIGHT_HOOKS = (BasePruningMethod, SpectralNorm, WeightNorm)
PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}
STRIDES_TRIED = 4  # sizes of maps go through all remainders of a stride up to this one
ROUNDING = 1e3  # of the type's precision, at most MOST_ROUNDING: two ways to pad need not add in the same order
MOST_ROUNDING = 0.02


class NotPlainError(Exception):
    """Says what a layer computes that one convolution does not."""


@dataclass(frozen=True)
class Seen:
    """The only convolution of a run.

    Args:
        weight: ``[out_channels, in_channels / groups, height, width]``.
        bias: ``[out_channels]``; None: none.
        settings: Its stride, dilation and groups.
        sides: Padding on the left, right, top and bottom.
        padding_mode: As ``Conv2d`` takes it.
    """

    weight: Tensor
    bias: Tensor | None
    settings: dict[str, Any]
    sides: tuple[int, ...]
    padding_mode: str

    def same_filters(self, other: "Seen") -> bool:
        """True if both are of one convolution, perhaps padded differently."""
        if self.settings != other.settings or self.padding_mode != other.padding_mode:
            return False
        if (self.bias is None) != (other.bias is None) or not torch.equal(self.weight, other.weight):
            return False
        return self.bias is None or other.bias is None or torch.equal(self.bias, other.bias)


class Watching(TorchDispatchMode):
    """Keeps the arguments and the results of all convolutions that run."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[tuple[Any, ...], Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.convolution:
            # At once: what comes behind may change it in place.
            self.calls.append(((args[0].clone(), *args[1:]), result.clone()))
        return result


def is_plain(conv: nn.Conv2d) -> bool:
    """True if a layer's settings and parameters say all that it computes."""
    return type(conv) in (nn.Conv2d, PaddedConv2d) and "weight" in conv._parameters and not has_hooks(conv)


def has_weight_hooks_only(module: nn.Module) -> bool:
    """True if a module has hooks, all of which compute its weight."""
    before = list(module._forward_pre_hooks.values())
    others = (module._forward_hooks, module._backward_hooks, module._backward_pre_hooks)
    known = all(isinstance(hook, WEIGHT_HOOKS) for hook in before)
    return bool(before) and known and not any(others) and not has_own_methods(module)


def computes_its_weight(conv: nn.Conv2d, plain: nn.Conv2d) -> bool:
    """True if a layer computes its weight or its bias anew whenever it runs, and the plain one has what it gives."""
    own = dict(conv.named_parameters(recurse=False))
    return any(
        tensor is not None and (own.get(name) is None or not torch.equal(own[name], tensor))
        for name, tensor in (("weight", plain.weight), ("bias", plain.bias))
    )


@torch.no_grad()
def plain_convolution(conv: nn.Conv2d, sizes: Iterable[tuple[int, ...]] = ()) -> nn.Conv2d:
    """The ``Conv2d``, or ``PaddedConv2d``, that computes in eval mode what a layer does, with its weights copied.

    The layer runs on random maps of several sizes. It has to compute one convolution of them, perhaps padded, by the
    same filters each time, and to return its result.

    Args:
        conv: A layer of a subclass, or one whose weight hooks compute; left untouched.
        sizes: Heights and widths of maps that are to be tried, too.
    Raises:
        NotPlainError: If it computes something else; the message says what, and begins with "it".
    """
    generator = torch.Generator().manual_seed(0)
    like = next((tensor for tensor in conv.state_dict().values() if tensor.is_floating_point()), torch.empty(0))
    with evaluating(conv), random_state_kept(conv), without_inference_mode():
        seen: list[tuple[tuple[int, ...], Seen]] = []
        for number, size in enumerate((*sizes_to_try(conv), *sizes)):
            x = torch.randn(1, conv.in_channels, *size, generator=generator, device="cpu") * (1 + number) + number
            x = x.to(like.device, like.dtype)
            output, found = watch(conv, x)
            seen.append((size, found))
            if not found.same_filters(seen[0][1]):
                raise NotPlainError("its filters change with what it gets")
        plain = built(seen[0][1], padding_for(seen), any(p.requires_grad for p in conv.parameters()))
        allowed = min(ROUNDING * torch.finfo(output.dtype).eps, MOST_ROUNDING) * float(output.abs().max())
        if not torch.allclose(plain(x), output, rtol=0, atol=allowed):
            raise NotPlainError("it computes something else than the convolution that is in it")
    return plain.train(conv.training)


def sizes_to_try(conv: nn.Conv2d) -> list[tuple[int, int]]:
    """Heights and widths of maps: odd and even, with each remainder of the stride, some far larger than filters."""
    spread = max((k - 1) * d + 1 for k, d in zip(conv.kernel_size, conv.dilation, strict=True))
    least, stride = 2 * spread + 1, max(conv.stride)
    steps = range(min(stride, STRIDES_TRIED) + 1)
    return [(least + step, least + stride + 2 * step + 1) for step in steps] + [(4 * least, 3 * least + 1)]


def watch(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, Seen]:
    """The output of a layer, and the convolution that made it."""
    try:
        with Watching() as watching:
            output = conv(x.clone())
    except Exception as error:  # whatever the layer's own code raises
        raise NotPlainError(f"it cannot be tried by itself: {first_sentence(error)}") from error
    if len(watching.calls) != 1:
        many = f"{len(watching.calls)} convolutions, not one" if watching.calls else "no convolution"
        raise NotPlainError(f"it computes {many}")
    (taken, weight, bias, stride, padding, dilation, transposed, _, groups), result = watching.calls[0]
    if not isinstance(output, Tensor) or transposed or not torch.equal(output, result):
        raise NotPlainError("it does more than to convolve")
    found = padding_between(x, taken)
    if found is None:
        raise NotPlainError("what it convolves is not its input, perhaps padded")
    mode, sides = found
    own = (padding[1], padding[1], padding[0], padding[0])
    if mode != "zeros" and (any(own) or sides[::2] != sides[1::2]):
        raise NotPlainError(f"it pads by {mode} in a way that Conv2d does not")
    settings = {"stride": tuple(stride), "dilation": tuple(dilation), "groups": groups}
    total = tuple(a + b for a, b in zip(sides, own, strict=True))
    return output, Seen(weight, bias, settings, total, mode)


def padding_between(x: Tensor, padded: Tensor) -> tuple[str, tuple[int, ...]] | None:
    """The way in which maps were padded, and how far on the left, right, top and bottom; None if they were not.

    Example:
        >>> x = torch.randn(1, 2, 5, 5)
        >>> padding_between(x, x), padding_between(x, F.pad(x, (0, 1, 2, 0))), padding_between(x, 2 * x)
        (('zeros', (0, 0, 0, 0)), ('zeros', (0, 1, 2, 0)), None)
    """
    wide, high = padded.shape[-1] - x.shape[-1], padded.shape[-2] - x.shape[-2]
    if padded.shape[:2] != x.shape[:2] or padded.dtype != x.dtype or not 0 <= wide < x.shape[-1]:
        return None
    if not 0 <= high < x.shape[-2]:
        return None
    for name, mode in PADDING_MODES.items():
        for left in range(wide + 1):
            for top in range(high + 1):
                sides = (left, wide - left, top, high - top)
                if torch.equal(F.pad(x[:, :1], sides, mode), padded[:, :1]):
                    return (name, sides) if torch.equal(F.pad(x, sides, mode), padded) else None
    return None


def padding_for(seen: Sequence[tuple[tuple[int, ...], Seen]]) -> Any:
    """The padding that a convolution had at several sizes ``(height, width)``, as ``convolution`` takes it."""
    first = seen[0][1]
    if all(one.sides == first.sides for _, one in seen):
        left, right, top, bottom = first.sides
        return (top, left) if (left, top) == (right, bottom) else first.sides
    kernel, stride, dilation = first.weight.shape[2:], first.settings["stride"], first.settings["dilation"]
    for size, one in seen:
        vertical, horizontal = (same_padding(size[i], kernel[i], stride[i], dilation[i]) for i in (0, 1))
        if one.sides != (*horizontal, *vertical) or one.padding_mode != "zeros":
            raise NotPlainError("its padding follows the size of the maps in another way than SAME")
    return "same"


def built(seen: Seen, padding: Any, learns: bool) -> nn.Conv2d:
    """The layer that computes a convolution that was seen."""
    maps, inputs, *kernel = seen.weight.shape
    plain = convolution(
        inputs * seen.settings["groups"],
        maps,
        tuple(kernel),
        padding=padding,
        padding_mode=seen.padding_mode,
        bias=seen.bias is not None,
        device="meta",
        **seen.settings,
    )
    plain.weight = nn.Parameter(seen.weight.clone(), requires_grad=learns)
    if seen.bias is not None:
        plain.bias = nn.Parameter(seen.bias.clone(), requires_grad=learns)
    return plain
