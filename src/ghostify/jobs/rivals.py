"""The rivals of a run's network: what else one could do with the same original."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ghostify.measure.count import count
from ghostify.planning import convert
from ghostify.transform.narrow import narrow
from ghostify.transform.reconstruct import Effort


@dataclass(frozen=True)
class Start:
    """The beginning of a rival.

    Args:
        original: The trained network.
        images: Batches to calibrate on.
        share: Share of the original's multiply-adds that a rival may have.
        effort: See ``convert``.
        seed: Seed of all that is drawn.
    """

    original: nn.Module
    images: Sequence[Tensor]
    share: float
    effort: Effort
    seed: int


def papers_ghost(start: Start) -> nn.Module:
    """Depthwise ghosts of ratio 2, fitted to the original (Han et al. 2020, arXiv:1911.11907)."""
    return convert(
        start.original, ratio=2, cheap="depthwise", calibration=start.images, effort=start.effort, seed=start.seed
    ).model


def pruned(start: Start) -> nn.Module:
    """Torch-Pruning by the L2 norm of filters, BatchNorm's statistics estimated anew."""
    shape = start.images[0].shape[1:]
    model = narrow(start.original, shape, int(start.share * count(start.original, shape).macs))
    estimate_norms_(model, start.images)
    return model


@torch.no_grad()
def estimate_norms_(model: nn.Module, images: Sequence[Tensor]) -> None:
    """Estimate all BatchNorm statistics anew."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    model.train()
    for batch in images:
        model(batch)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    model.eval()


RIVALS: dict[str, Callable[[Start], nn.Module]] = {"paper's ghost": papers_ghost, "Torch-Pruning": pruned}
