"""Least squares: filters for target outputs, and the channels from which all can best be computed."""

import torch
from torch import Tensor

from ghostify.fitting.moments import Moments
from ghostify.measure.redundancy import choose_in_order, choose_units

# Weight of the old filters in a fit, relative to the mean variance of the inputs.
RIDGE = 1e-4


def choose_maps(covariance: Tensor, effect: Tensor, kept: int, unit: int = 1) -> Tensor:
    """The channels from which all can best be computed, as ``choose_in_order`` chooses them.

    Args:
        kept: How many, whole units.
        unit: Channels that stay or go together, one behind the other.
    Returns:
        Their indices, ascending.
    Example:
        >>> twin = torch.tensor([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 1.0]])
        >>> choose_maps(twin, torch.eye(3), 2).tolist()
        [0, 2]
    """
    return maps_in_order(covariance, effect, kept, unit).sort().values


def maps_in_order(covariance: Tensor, effect: Tensor, kept: int, unit: int = 1) -> Tensor:
    """The same in the order in which they are chosen: the first of them are the choice of fewer."""
    if unit > 1:
        return choose_units(covariance, effect, kept // unit, unit)
    return choose_in_order(covariance, effect, kept).order


def fit_filters(found: Moments, prior: Tensor) -> Tensor:
    """Filters ``[outputs, inputs]`` for the target outputs by ridge regression towards ``prior``.

    Example:
        >>> found = Moments(torch.zeros(1), torch.zeros(1), torch.eye(1), 3 * torch.eye(1), 9 * torch.eye(1))
        >>> round(fit_filters(found, torch.zeros(1, 1)).item(), 2)
        3.0
    """
    prior = prior.to(found.xx)
    if found.rows is not None:  # the same, with an unknown for each sample (Woodbury 1950)
        x, t = found.rows
        return prior + solve_positive(lifted(x @ x.T, ridge_of(found.xx)), t - x @ prior.T).T @ x
    return prior + solve_positive(lifted(found.xx, ridge_of(found.xx)), (found.tx - prior @ found.xx).T).T


def solve_positive(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution for a symmetric positive definite matrix, or for one that only rounding made indefinite."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed):
        return torch.linalg.solve(matrix, right)
    return torch.cholesky_solve(right, factor)


def ridge_of(covariance: Tensor) -> Tensor:
    """A small share of a covariance's mean variance."""
    return RIDGE * covariance.diagonal().mean().clamp_min(1e-30)


def lifted(matrix: Tensor, by: Tensor) -> Tensor:
    """A copy of a square matrix with a number added on its diagonal."""
    copied = matrix.clone()
    copied.diagonal().add_(by)
    return copied


def complement(chosen: Tensor, size: int) -> Tensor:
    """The indices that were not chosen, ascending."""
    left = torch.ones(size, dtype=torch.bool, device=chosen.device)
    left[chosen] = False
    return left.nonzero().flatten()


def share_explained(error: Tensor, variance: Tensor) -> float:
    """Share of the variance that the error leaves explained: 1 where there is no error."""
    return float(1 - error.sum() / variance.sum()) if variance.sum() > 0 else 1.0
