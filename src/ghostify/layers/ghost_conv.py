"""GhostConv2d: a linear drop-in for Conv2d that makes some maps from the others, and may take fewer."""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ghostify.errors import InputError, spelled
from ghostify.layers.padded_conv import Sides, convolution

Cheap = Literal["depthwise", "pointwise"]
CHEAP_KINDS: tuple[str, ...] = get_args(Cheap)


def intrinsic_channels(out_channels: int, ratio: float, groups: int = 1) -> int:
    """The number of output maps that the convolution makes: ``ceil(n / s)`` in each group.

    Han et al. 2020, arXiv:1911.11907, section 3.1.

    Example:
        >>> intrinsic_channels(64, 2), intrinsic_channels(64, 3), intrinsic_channels(6, 2, groups=2)
        (32, 22, 4)
    """
    return groups * math.ceil(out_channels // groups / ratio)


def join_maps(intrinsic: Tensor, ghosts: Tensor, out_channels: int, groups: int = 1) -> Tensor:
    """Concatenate intrinsic maps and ghosts, group by group, and cut off what is over.

    Args:
        intrinsic: ``[..., intrinsic, height, width]``.
        ghosts: ``[..., ghosts, height, width]``.
        out_channels: Maps to return, at most intrinsic + ghosts.
        groups: Groups of both; in each the intrinsic maps come first.
    Returns:
        ``[..., out_channels, height, width]``.
    Example:
        >>> a, b = torch.tensor([1, 2]).reshape(2, 1, 1), torch.tensor([3, 4]).reshape(2, 1, 1)
        >>> join_maps(a, b, 4).flatten().tolist(), join_maps(a, b, 4, groups=2).flatten().tolist()
        ([1, 2, 3, 4], [1, 3, 2, 4])
    """
    if groups == 1:
        joined = torch.cat([intrinsic, ghosts], dim=-3)
        return joined if joined.shape[-3] == out_channels else joined.narrow(-3, 0, out_channels)
    grouped = [maps.unflatten(-3, (groups, maps.shape[-3] // groups)) for maps in (intrinsic, ghosts)]
    return torch.cat(grouped, dim=-3).narrow(-3, 0, out_channels // groups).flatten(-4, -3)


def mark_intrinsic(
    intrinsic: int, ghosts: int, out_channels: int, groups: int = 1, order: Tensor | None = None
) -> Tensor:
    """The joined maps that are intrinsic: bool ``[out_channels]``.

    Example:
        >>> mark_intrinsic(2, 2, 3).tolist(), mark_intrinsic(2, 2, 4, groups=2).tolist()
        ([True, True, False], [True, False, True, False])
    """
    made = torch.ones(intrinsic, 1, 1, dtype=torch.bool), torch.zeros(ghosts, 1, 1, dtype=torch.bool)
    marks = join_maps(*made, out_channels, groups).flatten() if ghosts else made[0].flatten()
    return marks if order is None else marks[order.cpu()]


class GhostConv2d(nn.Module):
    """A drop-in for ``torch.nn.Conv2d``: some maps by convolution, the rest as their cheap linear ghosts.

    The ghost module of Han et al. 2020, arXiv:1911.11907, section 3.1, without normalisation and
    activation, so that it stays linear and takes the place of any convolution, whatever follows.
    The positional arguments are those of ``Conv2d`` and mean the same; padding may also be one of ``PaddedConv2d``.

    Args:
        ratio: s, at least 1: one map in s is intrinsic; 1 is a plain convolution.
        cheap_kernel_size: d, odd, the size of depthwise cheap filters; "pointwise" is always 1×1.
        cheap: "depthwise" (the paper's: each ghost from one intrinsic map) or "pointwise" (each
            ghost a combination of all intrinsic maps of its group).
        intrinsic: Number of intrinsic maps, in place of ``ratio``; without groups.
        ordered: Put the output maps in the order of the buffer ``order``; without groups.
        merged: Number of combinations of the input maps that the convolution takes in their place, made by a 1×1
            convolution in front, so that near-copies among them become one; without groups. None: no such convolution.
    Shape:
        Input ``[batch, in_channels, height, width]`` or without batch; output as Conv2d's. In each
        group the intrinsic maps come first; where ``ordered``, map i of the output is map ``order[i]``
        of these.
    Raises:
        InputError: If ratio, cheap_kernel_size, cheap, intrinsic or merged is outside the above.
        ValueError: If an argument is one that Conv2d refuses.
    Example:
        >>> ghost, conv = GhostConv2d(16, 64, 3, padding=1, bias=False), nn.Conv2d(16, 64, 3, padding=1)
        >>> ghost(torch.ones(1, 16, 8, 8)).shape == conv(torch.ones(1, 16, 8, 8)).shape
        True
        >>> sum(p.numel() for p in ghost.parameters()), 32 * 16 * 9 + 32 * 9
        (4896, 4896)
    """

    order: Tensor | None

    def __init__(  # noqa: PLR0913  # Conv2d's own arguments in its order, and the ghost's
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | str | tuple[int, int] | Sides = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        ratio: int = 2,
        cheap_kernel_size: int = 3,
        cheap: Cheap = "depthwise",
        intrinsic: int | None = None,
        ordered: bool = False,
        merged: int | None = None,
    ) -> None:
        super().__init__()
        check_ghost_arguments(ratio, cheap_kernel_size, cheap)
        if groups < 1 or out_channels % groups:
            raise InputError(f"out_channels {out_channels} must be divisible by groups {groups}")
        if groups > 1 and (intrinsic is not None or ordered or merged is not None):
            raise InputError(f"groups is {groups}: expected 1 where intrinsic, ordered or merged is given")
        if merged is not None and not 1 <= merged <= in_channels:
            raise InputError(f"merged is {merged}: expected 1 to {in_channels}, the input maps")
        if intrinsic is None:
            intrinsic = intrinsic_channels(out_channels, ratio, groups)
        elif not 1 <= intrinsic <= out_channels:
            raise InputError(f"intrinsic is {intrinsic}: expected 1 to {out_channels}, the output maps")
        else:
            ratio = math.ceil(out_channels / intrinsic)
        self.out_channels = out_channels
        self.ratio, self.cheap_kernel_size, self.cheap_kind = ratio, cheap_kernel_size, cheap
        # Without a bias: at the border the filters then see what they would of the maps themselves.
        self.merge = (
            None if merged is None else nn.Conv2d(in_channels, merged, 1, bias=False, device=device, dtype=dtype)
        )
        self.primary = convolution(
            in_channels if merged is None else merged,
            intrinsic,
            kernel_size,
            stride,
            padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
        )
        self.cheap = self._cheap_conv(bias, device, dtype)
        self.register_buffer("order", torch.arange(out_channels, device=device) if ordered else None)

    def _cheap_conv(self, bias: bool, device: Any, dtype: Any) -> nn.Conv2d | None:
        """The cheap operation as a Conv2d, or None where no map is left to be a ghost.

        It always pads with zeros: reflecting or wrapping would fail on maps smaller than its filters,
        on which the convolution itself may well work.
        """
        intrinsic, ghosts = self.primary.out_channels, self.out_channels - self.primary.out_channels
        if not ghosts:
            return None
        if self.cheap_kind == "pointwise":
            return nn.Conv2d(intrinsic, ghosts, 1, groups=self.groups, bias=bias, device=device, dtype=dtype)
        d = self.cheap_kernel_size
        return nn.Conv2d(
            intrinsic,
            intrinsic * (self.ratio - 1),
            d,
            padding=d // 2,
            groups=intrinsic,
            bias=bias,
            device=device,
            dtype=dtype,
        )

    @classmethod
    def like(
        cls,
        conv: nn.Conv2d,
        *,
        ratio: int = 2,
        cheap_kernel_size: int = 3,
        cheap: Cheap = "depthwise",
        intrinsic: int | None = None,
        ordered: bool = False,
        bias: bool | None = None,
        merged: int | None = None,
    ) -> "GhostConv2d":
        """A ghost with the shape, placement, mode and trainability of ``conv``.

        The intrinsic maps keep the filters that ``conv`` has for the first maps of each group; the cheap filters and
        the convolution that merges inputs are new. Where ``bias`` is None, the ghost has one if ``conv`` has one; the
        other arguments are those of the class.
        """
        ghost = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]  # torch annotates tuple[int, ...]
            conv.stride,  # type: ignore[arg-type]  # likewise
            conv.padding,  # type: ignore[arg-type]  # likewise
            conv.dilation,  # type: ignore[arg-type]  # likewise
            conv.groups,
            conv.bias is not None if bias is None else bias,
            conv.padding_mode,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
            ratio=ratio,
            cheap_kernel_size=cheap_kernel_size,
            cheap=cheap,
            intrinsic=intrinsic,
            ordered=ordered,
            merged=merged,
        )
        per_group = ghost.primary.out_channels // conv.groups
        with torch.no_grad():
            filters = conv.weight[:, :merged]  # those of the first inputs, where they are merged
            for target, source in ((ghost.primary.weight, filters), (ghost.primary.bias, conv.bias)):
                if target is not None and source is not None:
                    target.copy_(source.unflatten(0, (conv.groups, -1))[:, :per_group].flatten(0, 1))
        ghost.requires_grad_(conv.weight.requires_grad)
        return ghost.train(conv.training)

    # What code outside reads off a Conv2d.
    @property
    def in_channels(self) -> int:
        return (self.primary if self.merge is None else self.merge).in_channels

    @property
    def groups(self) -> int:
        return self.primary.groups

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return self.primary.kernel_size

    @property
    def stride(self) -> tuple[int, ...]:
        return self.primary.stride

    @property
    def padding(self) -> str | tuple[int, ...]:
        return self.primary.padding

    @property
    def dilation(self) -> tuple[int, ...]:
        return self.primary.dilation

    @property
    def padding_mode(self) -> str:
        return self.primary.padding_mode

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[batch, in_channels, h, w]`` to ``[batch, out_channels, h', w']``, as Conv2d would."""
        if self.merge is not None:
            x = self.merge(x)
        if self.training and self.learns_as_one:
            weight, bias = self.as_one_convolution()
            return self.primary._conv_forward(x, weight, bias)
        maps: Tensor = self.primary(x)
        if self.cheap is not None:
            maps = join_maps(maps, self.cheap(maps), self.out_channels, self.groups)
        return maps if self.order is None else maps.index_select(-3, self.order)

    @property
    def combines(self) -> bool:
        """True if its ghosts are combinations of all intrinsic maps."""
        return self.cheap is not None and self.cheap_kind == "pointwise"

    @property
    def learns_as_one(self) -> bool:
        """True if in training mode one convolution with combined filters makes all maps.

        The function and its gradients are the same, but the backward pass has one layer instead of four. Only for
        pointwise ghosts without groups, and if that convolution costs at most half as much again as the ghosts.
        """
        if self.cheap is None or not self.combines or self.groups > 1:
            return False
        return self.out_channels * self.primary.weight[0].numel() <= 1.5 * (
            self.primary.weight.numel() + self.cheap.weight.numel()
        )

    def as_one_convolution(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of one convolution behind ``merge`` that makes the same maps.

        Only for pointwise ghosts without groups.
        """
        assert self.cheap is not None
        assert self.cheap_kind == "pointwise"
        assert self.groups == 1
        filters, bias = self.primary.weight, self.primary.bias
        combinations = self.cheap.weight.flatten(1)
        weight = torch.cat([filters, (combinations @ filters.flatten(1)).unflatten(1, filters.shape[1:])])
        if bias is not None and self.cheap.bias is not None:  # both have one, or none
            bias = torch.cat([bias, torch.addmv(self.cheap.bias, combinations, bias)])
        if self.order is not None:
            weight, bias = weight[self.order], bias if bias is None else bias[self.order]
        return weight, bias

    @property
    def intrinsic_maps(self) -> Tensor:
        """The output maps that the convolution makes, the others being ghosts: bool ``[out_channels]``."""
        ghosts = 0 if self.cheap is None else self.cheap.out_channels
        return mark_intrinsic(self.primary.out_channels, ghosts, self.out_channels, self.groups, self.order)

    def extra_repr(self) -> str:
        cheap = "pointwise" if self.cheap_kind == "pointwise" else f"{self.cheap_kernel_size}x{self.cheap_kernel_size}"
        merged = "" if self.merge is None else f", merged={self.merge.out_channels}"
        return f"{self.in_channels}, {self.out_channels}, intrinsic={self.primary.out_channels}, cheap={cheap}{merged}"


def check_ghost_arguments(ratio: float, cheap_kernel_size: int, cheap: str = "depthwise") -> None:
    """Refuse a ratio, filter size or kind of cheap operation that no ghost can have."""
    if not isinstance(ratio, int) or ratio < 1:
        raise InputError(f"{spelled('ratio')} is {ratio!r}: expected a whole number of at least 1")
    if not isinstance(cheap_kernel_size, int) or cheap_kernel_size < 1 or cheap_kernel_size % 2 == 0:
        raise InputError(
            f"{spelled('cheap_kernel_size')} is {cheap_kernel_size!r}: expected an odd whole number, such as 1, 3 or 5"
        )
    if cheap not in CHEAP_KINDS:
        raise InputError(f"{spelled('cheap')} is {cheap!r}: expected one of {', '.join(CHEAP_KINDS)}")
