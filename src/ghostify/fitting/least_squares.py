"""Least squares: which maps to keep, filters that make the others of them, and what inputs are merged to."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import qr
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ghostify.fitting.moments import Moments, TapMoments, mean_over_taps
from ghostify.measure.redundancy import choose_in_order

# Weight of the old filters in a fit, relative to the mean variance of the inputs.
RIDGE = 1e-4


def choose_maps(covariance: Tensor, effect: Tensor, kept: int) -> Tensor:
    """The maps from which all maps can best be told, as ``choose_in_order`` takes them.

    Returns:
        Their indices, ascending.
    Example:
        >>> twin = torch.tensor([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 1.0]])
        >>> choose_maps(twin, torch.eye(3), 2).tolist()
        [0, 2]
    """
    return choose_in_order(covariance, effect, kept)[0].sort().values


def fit_filters(found: Moments, prior: Tensor) -> Tensor:
    """Filters ``[outputs, inputs]`` for the wanted outputs by ridge regression towards ``prior``.

    Example:
        >>> found = Moments(torch.zeros(1), torch.zeros(1), torch.eye(1), 3 * torch.eye(1), 9 * torch.eye(1))
        >>> round(fit_filters(found, torch.zeros(1, 1)).item(), 2)
        3.0
    """
    prior = prior.to(found.xx)
    return prior + torch.linalg.solve(ridged(found.xx), (found.tx - prior @ found.xx).T).T


def ridged(covariance: Tensor) -> Tensor:
    """A covariance with a small share of its mean variance on the diagonal."""
    ridge = RIDGE * covariance.diagonal().mean().clamp_min(1e-30)
    return covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)


@dataclass(frozen=True)
class PointwiseGhosts:
    """Filters of some maps, and how the others combine them.

    Args:
        kept: Indices of the maps that the filters make, ascending.
        filters: ``[kept, inputs]``.
        bias: ``[kept]``.
        combinations: ``[others, kept]``, the others ascending.
        combination_bias: ``[others]``.
        explained: Share of the others' variance that their combinations give, at most 1.
    """

    kept: Tensor
    filters: Tensor
    bias: Tensor
    combinations: Tensor
    combination_bias: Tensor
    explained: float


def fit_pointwise(found: Moments, fitted: Tensor, gain: Tensor, kept: int) -> PointwiseGhosts:
    """The best maps that are all combinations of ``kept`` ones (reduced-rank regression, Izenman 1975).

    Filters of rank ``kept`` are the fit of all filters, projected on the leading directions of what it
    predicts. Any ``kept`` independent rows of them combine to the rest; the rows are chosen by pivoting.

    Args:
        fitted: Filters of all maps, by ``fit_filters``, ``[outputs, inputs]``.
        gain: What an error in each map counts, ``[outputs]``, at least 0.
    """
    gain = gain.to(fitted)
    gain = gain.clamp_min(1e-3 * gain.max().clamp_min(1e-30))  # a map that hardly counts still has a place
    weighted = gain[:, None] * fitted
    directions = torch.linalg.eigh(weighted @ found.xx @ weighted.T).eigenvectors[:, -kept:]  # [outputs, kept]
    pivots = qr(directions.T.cpu().numpy(), mode="r", pivoting=True)[1]
    chosen = torch.as_tensor(np.sort(pivots[:kept]).astype(np.int64), device=fitted.device)
    others = complement(chosen, len(fitted))
    basis = directions[chosen]  # [kept, kept]
    filters = basis @ (directions.T @ weighted) / gain[chosen, None]
    combinations = torch.linalg.solve(basis.T, directions[others].T).T * gain[chosen] / gain[others, None]
    made = combinations @ filters
    error = found.tt.diagonal()[others] - 2 * (made * found.tx[others]).sum(1) + ((made @ found.xx) * made).sum(1)
    return PointwiseGhosts(
        kept=chosen,
        filters=filters,
        bias=found.t_mean[chosen] - filters @ found.x_mean,
        combinations=combinations,
        combination_bias=found.t_mean[others] - combinations @ found.t_mean[chosen],
        explained=share_explained(error, found.tt.diagonal()[others]),
    )


@dataclass(frozen=True)
class MergedInputs:
    """Combinations of a convolution's input maps, in the place of these.

    Args:
        combinations: ``[merged, maps]``.
        moments: Of patches of the merged maps, ``[merged · taps]``.
        prior: Filters of them that give nearly what those of all maps do, ``[outputs, merged · taps]``.
    """

    combinations: Tensor
    moments: Moments
    prior: Tensor

    def of_all(self, filters: Tensor) -> Tensor:
        """Filters of all maps, ``[outputs, maps · taps]``, that do what these do of the merged ones."""
        by_map = filters.unflatten(1, (len(self.combinations), -1))
        return torch.einsum("omt,mi->oit", by_map, self.combinations).flatten(1)


def merge_inputs(found: Moments, fitted: Tensor, gain: Tensor, merged: int) -> MergedInputs:
    """The combinations of a convolution's input maps from which filters best tell the wanted outputs.

    They are the directions in which the maps vary most, counted by what the fitted filters make of them: a higher-order
    singular value decomposition (De Lathauwer et al. 2000; of filters, Kim et al. 2016, arXiv:1511.06530) of filters
    weighted by their inputs' covariance, which is taken to be one of the maps times one of the taps.

    Args:
        found: Of patches ``[maps · taps]``.
        fitted: Filters of all maps, by ``fit_filters``, ``[outputs, maps, taps]``.
        gain: What an error in each output map counts, ``[outputs]``.
        merged: How many combinations, at most maps.
    """
    maps, taps = fitted.shape[1:]
    lifted = ridged(found.xx)
    values, vectors = torch.linalg.eigh(mean_over_taps(lifted, maps))
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    of_taps = lifted.reshape(maps, taps, maps, taps).diagonal(dim1=0, dim2=2).mean(-1)
    weighted = gain.to(fitted)[:, None, None] * fitted
    effect = torch.einsum("oit,ojt->ij", weighted @ of_taps, weighted)
    directions = torch.linalg.eigh(root @ effect @ root).eigenvectors[:, -merged:]  # [maps, merged]
    # Each of variance 1 and apart from the others, so that learning moves all of them alike.
    combinations = torch.linalg.solve(root, directions).T

    def merge(rows: Tensor) -> Tensor:  # [maps · taps, columns] → [merged · taps, columns]
        return (combinations @ rows.reshape(maps, -1)).reshape(merged * taps, -1)

    seen = merge(lifted)
    moments = Moments(merge(found.x_mean)[:, 0], found.t_mean, merge(merge(found.xx).T), merge(found.tx.T).T, found.tt)
    return MergedInputs(combinations, moments, torch.linalg.solve(merge(seen.T), seen @ fitted.flatten(1).T).T)


@dataclass(frozen=True)
class DepthwiseGhosts:
    """A d×d filter of one intrinsic map for each ghost.

    Args:
        slots: For each ghost, in the order of the wanted maps, its row among the cheap filters.
        filters: One row per slot, ``[ghosts, taps]``.
        bias: One per slot, ``[ghosts]``.
        explained: Share of the ghosts' variance that the filters give, at most 1.
    """

    slots: Tensor
    filters: Tensor
    bias: Tensor
    explained: float


def fit_depthwise(found: TapMoments, per_map: int) -> DepthwiseGhosts:
    """Assign each ghost to an intrinsic map, and fit its filter.

    Each intrinsic map has at most ``per_map`` ghosts, as in the paper; the assignment is the one that
    explains the most variance in all.
    """
    taps = found.xx.shape[-1]
    ridge = RIDGE * found.xx.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
    lifted = found.xx + ridge[:, None, None] * torch.eye(taps, dtype=found.xx.dtype, device=found.xx.device)
    filters = torch.linalg.solve(lifted, found.tx.transpose(1, 2)).transpose(1, 2)  # [intrinsic, wanted, taps]
    explained = (2 * (filters * found.tx).sum(2) - ((filters @ found.xx) * filters).sum(2)).cpu()
    source = torch.arange(explained.shape[1]) // per_map  # of each slot, its intrinsic map
    rows, columns = linear_sum_assignment(explained[source].numpy(), maximize=True)
    target = torch.as_tensor(columns)  # of each slot, its ghost
    slots = torch.empty_like(target)
    slots[target] = torch.as_tensor(rows)
    chosen = filters[source, target]
    bias = found.t_mean[target] - (chosen * found.x_mean[source]).sum(1)
    share = share_explained((found.t_variance.cpu()[target] - explained[source, target]), found.t_variance.cpu())
    return DepthwiseGhosts(slots, chosen, bias, share)


def complement(chosen: Tensor, size: int) -> Tensor:
    """The indices that were not chosen, ascending."""
    left = torch.ones(size, dtype=torch.bool, device=chosen.device)
    left[chosen] = False
    return left.nonzero().flatten()


def share_explained(error: Tensor, variance: Tensor) -> float:
    """1 where nothing is left of the variance, 0 where all of it."""
    return float(1 - error.sum() / variance.sum()) if variance.sum() > 0 else 1.0
