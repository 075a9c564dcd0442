"""How well a layer's maps predict each other: best filters from map to map, and variance that a few maps explain."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Least pixels per unknown of a filter: by chance, a fit explains one over this of a map of noise.
PIXELS_PER_UNKNOWN = 6
# Relative to the mean variance under a filter's weights: keeps a constant map's equations solvable.
RIDGE = 1e-10
# Share of the largest variance below which a map counts as constant.
CONSTANT = 1e-10
TINY = 1e-200
CHUNK_VALUES = 2**24  # of unfolded maps at a time, 128 MB


@dataclass(frozen=True)
class MapFilter:
    """The best linear filter that turns one map into another.

    Args:
        weight: ``[d, d]``, as ``torch.nn.Conv2d`` applies it, with zeros around the map.
        bias: The constant that is added.
        error: Share of the target's variance that is left, 0 to 1.
        mse: Mean squared error, in the map's own unit squared.
    """

    weight: Tensor
    bias: float
    error: float
    mse: float


@dataclass(frozen=True)
class FilterFits:
    """The best d×d filters from each map to each other one.

    Args:
        errors: Share of the target's variance that is left, 0 to 1, ``[target, source]``; 0 of a constant target.
        partners: For each target the source that leaves least, not itself and not constant, ``[maps]``.
        weights: The filters from the partners, ``[maps, d, d]``.
        biases: The constants that are added, ``[maps]``.
    """

    errors: Tensor
    partners: Tensor
    weights: Tensor
    biases: Tensor


def usable_sizes(height: int, width: int, sizes: Sequence[int] = (1, 3, 5, 7)) -> tuple[int, ...]:
    """The filter sizes for which maps have enough pixels.

    Example:
        >>> usable_sizes(56, 56), usable_sizes(7, 7)
        ((1, 3, 5, 7), (1,))
    """
    return tuple(d for d in sizes if height * width >= PIXELS_PER_UNKNOWN * (d * d + 1))


def constant_maps(maps: Tensor) -> Tensor:
    """The maps of ``[maps, height, width]`` that are constant, as after a dead ReLU: bool ``[maps]``."""
    variance = maps.double().flatten(1).var(1, correction=0)
    return variance <= CONSTANT * variance.max()


def fit_filters_between(maps: Tensor, sizes: Sequence[int]) -> dict[int, FilterFits]:
    """The best d×d filter from each map to each other one, for several d.

    Such a filter is a depthwise ghost's cheap operation (Han et al. 2020, arXiv:1911.11907, section 4.1):
    linear, zeros around the map, plus a constant. It is fitted by least squares over all pixels.

    Args:
        maps: ``[maps, height, width]``, at least two that are not constant.
        sizes: d, odd.
    Example:
        >>> step = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
        >>> fits = fit_filters_between(torch.stack([step, 2 * step + 1, step.T]), [1])[1]
        >>> fits.errors.numpy().round(2).tolist()
        [[0.0, 0.0, 0.36], [0.0, 0.0, 0.36], [0.36, 0.36, 0.0]]
        >>> fits.partners[1].item(), round(fits.weights[1].item(), 2), round(fits.biases[1].item(), 2)
        (0, 2.0, 1.0)
    """
    count, pixels = len(maps), maps[0].numel()
    largest = max(sizes)
    targets = maps.double().flatten(1)
    means = targets.mean(1)
    targets = targets - means[:, None]
    variance = targets.square().mean(1)
    constant = constant_maps(maps)
    everyone = torch.arange(count)
    fits = {
        d: FilterFits(
            errors=torch.empty(count, count, dtype=torch.float64),
            partners=torch.zeros(count, dtype=torch.long),
            weights=torch.zeros(count, d, d, dtype=torch.float64),
            biases=torch.zeros(count, dtype=torch.float64),
        )
        for d in sizes
    }
    least = {d: torch.full((count,), torch.inf, dtype=torch.float64) for d in sizes}
    for sources in everyone.split(max(1, CHUNK_VALUES // (largest**2 * pixels))):
        patches = centred_patches(maps[sources], largest)
        x = patches.centred
        among = x @ x.transpose(1, 2) / pixels  # [sources, d·d, d·d]
        with_targets = (x.flatten(0, 1) @ targets.T / pixels).unflatten(0, x.shape[:2])  # [sources, d·d, maps]
        for d, fit in fits.items():
            inner = inner_weights(largest, d)
            products = with_targets[:, inner]
            weights = least_squares(among[:, inner][:, :, inner], products)
            share = 1 - (weights * products).sum(1).T / variance[:, None].clamp_min(TINY)
            fit.errors[:, sources] = torch.where(constant[:, None], 0.0, share.clamp(0, 1))
            apart = fit.errors[:, sources].masked_fill(sources == everyone[:, None], torch.inf)
            error, place = apart.masked_fill(constant[sources], torch.inf).min(1)
            better = error < least[d]
            least[d] = torch.where(better, error, least[d])
            fit.partners[better] = sources[place[better]]
            fit.weights[better] = weights[place[better], :, better].unflatten(1, (d, d))
            moved = (fit.weights[better].flatten(1) * patches.means[:, inner][place[better]]).sum(1)
            fit.biases[better] = means[better] - moved
    return fits


def fit_filter(source: Tensor, target: Tensor, size: int) -> MapFilter:
    """The best d×d filter and constant from one map ``[height, width]`` to another; see ``fit_filters_between``."""
    patches = centred_patches(source[None], size)
    x, y = patches.centred, target.double().flatten()
    centred = y - y.mean()
    products = (x @ centred / len(centred))[:, :, None]
    weight = least_squares(x @ x.transpose(1, 2) / len(centred), products)
    variance = float(centred.square().mean())
    mse = max(0.0, variance - float((weight * products).sum()))
    bias = float(y.mean() - (weight[0, :, 0] * patches.means[0]).sum())
    return MapFilter(weight.reshape(size, size), bias, min(1.0, mse / variance) if variance > 0 else 0.0, mse)


@dataclass(frozen=True)
class Patches:
    """The pixels of maps under each weight of a d×d filter, in float64.

    Args:
        centred: Less their means, ``[maps, d·d, pixels]``.
        means: ``[maps, d·d]``.
    """

    centred: Tensor
    means: Tensor


def centred_patches(maps: Tensor, size: int) -> Patches:
    """The pixels of ``[maps, height, width]`` under each weight of a filter."""
    patches = F.unfold(maps.double()[:, None], size, padding=size // 2)
    means = patches.mean(2)
    return Patches(patches - means[:, :, None], means)


def inner_weights(size: int, inner: int) -> Tensor:
    """Places of a smaller filter's weights among a larger one's.

    Example:
        >>> inner_weights(5, 3).tolist()
        [6, 7, 8, 11, 12, 13, 16, 17, 18]
    """
    edge = (size - inner) // 2
    return torch.arange(size * size).unflatten(0, (size, size))[edge : edge + inner, edge : edge + inner].flatten()


def least_squares(among: Tensor, products: Tensor) -> Tensor:
    """Weights ``[sources, d·d, targets]`` from the covariances among the patches and with the targets."""
    scale = among.diagonal(dim1=1, dim2=2).mean(1).clamp_min(TINY)
    lifted = among + RIDGE * scale[:, None, None] * torch.eye(among.shape[1], dtype=among.dtype)
    return torch.cholesky_solve(products, torch.linalg.cholesky(lifted))


@dataclass(frozen=True)
class Pair:
    """Two maps of which one is nearly a filtered copy of the other.

    Args:
        source: The map that is filtered.
        target: The map that this should give.
        error: Share of the target's variance that the filter leaves.
    """

    source: int
    target: int
    error: float


def most_similar(errors: Tensor, constant: Tensor, pairs: int) -> list[Pair]:
    """The pairs of least error, no map in two of them.

    Args:
        errors: ``[target, source]``, as in ``FilterFits``.
        constant: Maps that take no part, bool ``[maps]``.
        pairs: Largest number of pairs.
    Example:
        >>> errors = torch.tensor([[0.0, 0.4, 0.9], [0.2, 0.0, 0.1], [0.9, 0.3, 0.0]], dtype=torch.float64)
        >>> most_similar(errors, torch.zeros(3, dtype=torch.bool), 2)
        [Pair(source=2, target=1, error=0.1)]
    """
    free = ~constant
    found: list[Pair] = []
    left = errors.clone().fill_diagonal_(torch.inf)
    left[constant] = torch.inf
    left[:, constant] = torch.inf
    while len(found) < pairs and int(free.sum()) >= 2:
        target, source = divmod(int(left.argmin()), len(left))
        found.append(Pair(source, target, float(errors[target, source])))
        both = torch.tensor([source, target])
        free[both] = False
        left[both] = torch.inf
        left[:, both] = torch.inf
    return found


class Choice(NamedTuple):
    """Maps in the order in which they were chosen.

    Args:
        order: Their indices, ``[chosen]``.
        gains: The amount by which each lowered the weighted error, ``[chosen]``.
    """

    order: Tensor
    gains: Tensor


def choose_in_order(covariance: Tensor, effect: Tensor, count: int) -> Choice:
    """Greedily choose the maps whose linear combinations predict all maps best.

    Each step takes the map whose linear prediction of all maps lowers their weighted error the most
    (interpolative decomposition of the covariance).

    Args:
        covariance: Covariance of the maps, ``[maps, maps]``.
        effect: Weights of the error: errors e of the maps count as ``e @ effect @ e``; ``[maps, maps]``, symmetric.
        count: Number of maps to choose.
    Example:
        >>> twin = torch.tensor([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 1.0]])
        >>> order, gain = choose_in_order(twin, torch.eye(3), 3)
        >>> order.tolist(), gain.tolist()
        ([0, 2, 1], [8.0, 1.0, 0.0])
    """
    covariance, effect = covariance.double(), effect.double()
    # What the chosen ones leave, R = covariance - F @ F.T, is never written down: of n² numbers, each step reads all
    # once for each matrix. Needed are its diagonal, that of R @ effect @ R, and the chosen column.
    variance = covariance.diagonal().clone()
    lowered = (covariance * (effect @ covariance)).sum(0)
    factors = covariance.new_empty(count, len(covariance))
    floor = 1e-9 * variance.mean().clamp_min(1e-30)
    free = torch.ones(len(covariance), dtype=torch.bool, device=covariance.device)
    order, gains = [], []
    for step in range(count):
        gain = lowered / variance.clamp_min(floor)
        gain = torch.where(variance > floor, gain, 0.0)  # predicted by the others already, or constant
        best = int(torch.where(free, gain, -torch.inf).argmax())
        free[best] = False
        order.append(best)
        gains.append(float(gain[best]))
        before, factor = factors[:step], factors[step].zero_()
        if variance[best] > floor:
            factor.copy_((covariance[best] - before[:, best] @ before) / variance[best].sqrt())
            weighted = effect @ factor
            left = covariance @ weighted - (before @ weighted) @ before
            lowered += factor * (weighted @ factor * factor - 2 * left)
            variance -= factor * factor
    device = covariance.device
    return Choice(torch.tensor(order, device=device), torch.tensor(gains, dtype=torch.float64, device=device))


def choose_units(covariance: Tensor, effect: Tensor, count: int, unit: int) -> Tensor:
    """The same for units of maps, one behind the other, that are chosen together: the indices of their maps, in order.

    Args:
        count: Number of units to choose.
        unit: Maps in each.
    Example:
        >>> twins = torch.tensor([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 1.0]]).repeat_interleave(2, 0)
        >>> choose_units(twins.repeat_interleave(2, 1), torch.eye(6), 2, 2).tolist()
        [0, 1, 4, 5]
    """
    left = covariance.double().clone()
    weighted = effect.double() @ left
    floor = 1e-9 * left.diagonal().mean().clamp_min(1e-30) * torch.eye(unit, dtype=left.dtype, device=left.device)
    units = len(left) // unit
    free = torch.ones(units, dtype=torch.bool, device=left.device)
    order = []
    for _ in range(count):
        own = left.unflatten(0, (units, unit)).unflatten(2, (units, unit)).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        shared = torch.einsum("mup,muq->upq", left.unflatten(1, (units, unit)), weighted.unflatten(1, (units, unit)))
        gain = torch.linalg.solve(own + floor, shared).diagonal(dim1=1, dim2=2).sum(1)
        best = int(torch.where(free, gain, -torch.inf).argmax())
        free[best] = False
        order.append(best)
        inside = slice(best * unit, (best + 1) * unit)
        rows = torch.linalg.solve(left[inside, inside] + floor, left[inside])
        left, weighted = left - left[:, inside] @ rows, weighted - weighted[:, inside] @ rows
    chosen = torch.tensor(order, device=left.device)
    return (chosen[:, None] * unit + torch.arange(unit, device=left.device)).flatten()


def explained_by_combinations(maps: Tensor) -> Tensor:
    """Share of all maps' variance that m maps and their 1×1 combinations explain, for m = 1 … maps: ``[maps]``."""
    values = maps.double().flatten(1)
    covariance = torch.cov(values, correction=0).reshape(len(maps), len(maps))
    total = covariance.diagonal().sum()
    gains = choose_in_order(covariance, torch.eye(len(maps)), len(maps)).gains
    return (gains.cumsum(0) / total).clamp(0, 1) if total > 0 else torch.ones(len(maps), dtype=torch.float64)


def explained_by_filters(maps: Tensor, errors: Tensor) -> Tensor:
    """Share of all maps' variance that m maps and filtered copies of them explain, for m = 1 … maps: ``[maps]``.

    Every other map is a filtered copy of whichever of the m predicts it best. The m are chosen greedily. A map's gain
    only falls as others are chosen before it, so that its last computed gain is an upper bound, and few gains are
    computed anew (lazy greedy, Minoux 1978).

    Args:
        maps: ``[maps, height, width]``.
        errors: ``[target, source]``, as in ``FilterFits``.
    """
    variance = maps.double().flatten(1).var(1, correction=0)
    total = float(variance.sum())
    if total == 0:
        return torch.ones(len(maps), dtype=torch.float64)
    left = variance.clone()  # of each target, with the maps chosen so far
    after = variance[:, None] * errors.clone().fill_diagonal_(0.0)
    bounds = [(-float((left - after[:, source]).clamp_min(0).sum()), source) for source in range(len(maps))]
    heapq.heapify(bounds)
    shares = []
    while bounds:
        _, source = heapq.heappop(bounds)
        gain = -float((left - after[:, source]).clamp_min(0).sum())
        if bounds and gain > bounds[0][0] + 1e-12 * total:
            heapq.heappush(bounds, (gain, source))
            continue
        left = torch.minimum(left, after[:, source])
        shares.append(1 - float(left.sum()) / total)
    return torch.tensor(shares, dtype=torch.float64).clamp(0, 1)


def explained_alone(maps: Tensor) -> Tensor:
    """Share of all maps' variance that lies in the m maps of largest variance, for m = 1 … maps: ``[maps]``."""
    variance = maps.double().flatten(1).var(1, correction=0)
    total = variance.sum()
    return variance.sort(descending=True).values.cumsum(0) / total if total > 0 else torch.ones_like(variance)
