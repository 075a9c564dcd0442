"""Channels of two networks that correspond to each other, at the ends of their blocks."""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ghostify.modes import evaluating
from ghostify.structure.blocks import ends_of, find_blocks

# Largest ratio of the squared differences of channels in order to the least possible. A trial: at most 1.001 in
# residual networks that had lost nearly all accuracy, at least 2.9 in ghosts whose channels leave in another order.
IN_ORDER = 1.1


def match_ends(original: nn.Module, other: nn.Module, batches: Sequence[Tensor]) -> dict[str, Tensor | None]:
    """Find the blocks that two networks share, and the original's channel for each of the other's at their ends.

    A ghost's channels may leave in another order than the original's, and a pruned network has fewer. So each channel
    of the other network gets one of the original's, no two the same, with the least sum of squared differences.

    Args:
        other: The other network, such as a ghost; a module of the same name may be another kind there.
        batches: Inputs ``[batch, channels, height, width]``, on the networks' device.
    Returns:
        By name of the block the original's channel for each of the other's; None where all are there, in order. Blocks
        with larger or smaller maps than the original's, or more channels, are left out.
    """
    convs = [name for name, module in original.named_modules() if isinstance(module, nn.Conv2d)]
    present = dict(other.named_modules())
    blocks = find_blocks(original, convs, batches[0][:2])
    names = [block.name for block in blocks if block.name in present and block.times == 1]
    sums: dict[str, Tensor] = {}
    with evaluating(original, other), torch.no_grad(), ends_of(original, names) as ends, ends_of(other, names) as mine:
        for x in batches:
            original(x.clone())
            other(x.clone())
            for name in names:
                if name in mine and can_match(mine[name], ends[name]):
                    sums[name] = sums.get(name, 0) + squared_differences(mine[name], ends[name])
    return {name: assigned(differences) for name, differences in sums.items()}


def can_match(maps: Tensor, others: Tensor) -> bool:
    """True if maps are of the size of the others, and no more of them."""
    return (
        isinstance(maps, Tensor)
        and maps.ndim == others.ndim
        and maps.shape[1] <= others.shape[1]
        and maps.shape[2:] == others.shape[2:]
    )


def squared_differences(maps: Tensor, others: Tensor) -> Tensor:
    """Squared differences of each map and each of the others, summed over a batch: ``[maps, others]``.

    Example:
        >>> squared_differences(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 4.0]])).tolist()
        [[1.0, 9.0], [0.0, 4.0]]
    """
    a, b = (x.transpose(0, 1).flatten(1).double() for x in (maps, others))
    return a.square().sum(1, keepdim=True) - 2 * a @ b.T + b.square().sum(1)


def assigned(differences: Tensor) -> Tensor | None:
    """Indices of the others that are assigned to the maps; None where all are there, in order.

    Example:
        >>> assigned(torch.tensor([[1.0, 0.1], [0.2, 1.0]]))
        tensor([1, 0])
        >>> assigned(torch.tensor([[1.0, 0.9], [1.0, 1.0]])) is None
        True
    """
    differences = differences.nan_to_num()  # where a network gives NaN, its loss will be NaN
    rows, columns = (torch.as_tensor(side) for side in linear_sum_assignment(differences.cpu().numpy()))
    maps, others = differences.shape
    if maps == others:
        least, in_order = differences[rows, columns].sum(), differences.diagonal().sum()
        if torch.equal(columns, rows) or in_order <= IN_ORDER * least:
            return None
    return columns.to(differences.device)
