"""Depthwise ghosts: the ghost module of Han et al. 2020, arXiv:1911.11907, section 3.1."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from ghostify.changes.change import Described, OutputChange, refuse_unless
from ghostify.changes.layer import Convolution, Sizes
from ghostify.fitting.least_squares import RIDGE, choose_maps, complement, share_explained
from ghostify.fitting.moments import FilterMoments, FilterSums, windows
from ghostify.fitting.samples import LayerSamples, set_
from ghostify.layers import GhostConv2d
from ghostify.layers.arguments import ghost_arguments
from ghostify.layers.ghost_conv import intrinsic_channels


@dataclass(frozen=True)
class DepthwiseGhosts(OutputChange):
    """Few channels are computed; each of the others is one of these, filtered by a d×d kernel.

    Args:
        cheap_kernel_size: d, odd.
    """

    kind = "depthwise ghosts"
    layers: ClassVar[Described] = {GhostConv2d: ghost_arguments}
    kept: int
    ghosted: int
    dropped: int = 0
    cheap_kernel_size: int = 3

    def __post_init__(self) -> None:
        refuse_unless(
            min(self.kept, self.ghosted, self.dropped + 1) >= 1, self, "at least 1 channel kept and 1 ghosted"
        )
        odd = self.cheap_kernel_size >= 1 and self.cheap_kernel_size % 2 == 1
        refuse_unless(odd, self, "an odd cheap_kernel_size, such as 1, 3 or 5")

    @classmethod
    def offered(cls, layer: Convolution, sizes: Sizes) -> Iterable[Self]:
        half = intrinsic_channels(layer.out_channels, 2)
        found = cls(half, layer.out_channels - half)
        if layer.in_channels * layer.kernel_area > found.macs_per_ghost:
            yield found

    @property
    def curve(self) -> str:
        return f"{self.kind}, {self.cheap_kernel_size}"

    @property
    def macs_per_ghost(self) -> int:
        return self.cheap_kernel_size**2

    @property
    def takes_input_changes(self) -> bool:
        return False

    def layer_arguments(self) -> dict[str, Any]:
        return {"intrinsic": self.kept, "cheap": "depthwise", "cheap_kernel_size": self.cheap_kernel_size}

    def fit_(self, layer: GhostConv2d, samples: LayerSamples) -> float | None:
        found, prior = samples.moments, samples.prior
        kept = choose_maps(found.tt, torch.diag(samples.gain.double() ** 2), self.kept)
        others = complement(kept, len(prior))
        filters, bias = samples.with_bias(samples.filters)
        set_(layer.primary, filters[kept], bias[kept])
        sums, padding = FilterSums(), self.cheap_kernel_size // 2
        for batch in samples.batches():
            channels = F.pad(layer.primary(batch.inputs), (padding,) * 4)
            seen = windows(channels, batch.pixels, (self.cheap_kernel_size,) * 2)
            sums.add(seen.flatten(0, 1).flatten(2), batch.targets[:, others])
        fitted = fit_depthwise(sums.moments(), layer.ratio - 1)
        assert layer.cheap is not None
        assert layer.order is not None
        set_(layer.cheap, fitted.filters, fitted.bias)
        layer.order[kept] = torch.arange(self.kept, device=prior.device)
        layer.order[others] = self.kept + fitted.slots.to(prior.device)
        return fitted.explained


@dataclass(frozen=True)
class CheapFilters:
    """A d×d filter of one intrinsic channel for each ghost.

    Args:
        slots: Row of each ghost among the cheap filters, the ghosts in the order of the targets.
        filters: ``[ghosts, kernel area]``.
        bias: ``[ghosts]``.
        explained: Share of the ghosts' variance that the filters give, at most 1.
    """

    slots: Tensor
    filters: Tensor
    bias: Tensor
    explained: float


def fit_depthwise(found: FilterMoments, per_channel: int) -> CheapFilters:
    """Assign each ghost to an intrinsic channel, and fit its filter.

    Each intrinsic channel has at most ``per_channel`` ghosts, as in the paper; the assignment explains the most
    variance in all.
    """
    area = found.xx.shape[-1]
    ridge = RIDGE * found.xx.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
    lifted = found.xx + ridge[:, None, None] * torch.eye(area, dtype=found.xx.dtype, device=found.xx.device)
    filters = torch.linalg.solve(lifted, found.tx.transpose(1, 2)).transpose(1, 2)  # [intrinsic, targets, area]
    explained = (2 * (filters * found.tx).sum(2) - ((filters @ found.xx) * filters).sum(2)).cpu()
    source = (
        torch.arange(explained.shape[1], device=explained.device) // per_channel
    )  # of each slot, its intrinsic channel
    rows, columns = linear_sum_assignment(explained[source].numpy(), maximize=True)
    target = torch.as_tensor(columns)  # of each slot, its ghost
    slots = torch.empty_like(target)
    slots[target] = torch.as_tensor(rows)
    chosen = filters[source, target]
    bias = found.t_mean[target] - (chosen * found.x_mean[source]).sum(1)
    share = share_explained((found.t_variance.cpu()[target] - explained[source, target]), found.t_variance.cpu())
    return CheapFilters(slots, chosen, bias, share)
