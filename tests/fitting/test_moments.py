"""Covariances added up batch by batch are those of all samples."""

from dataclasses import replace

import torch

from ghostify.changes.merge import merge_inputs
from ghostify.fitting.least_squares import fit_filters
from ghostify.fitting.moments import Moments, MomentSums


def test_more_columns_than_a_panel_have_the_covariance_of_all_samples() -> None:
    x, t = torch.randn(900, 290) + 5, torch.randn(900, 10)
    sums = MomentSums()
    for part in range(0, 900, 300):
        sums.add(x[part : part + 300], t[part : part + 300])
    found = sums.moments()
    expected = torch.cov(torch.cat([x, t], 1).double().T, correction=0)
    torch.testing.assert_close(found.xx, expected[:290, :290], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.tx, expected[290:, :290], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.tt, expected[290:, 290:], rtol=1e-4, atol=1e-4)


def few_and_the_same_without_rows(inputs: int = 72, outputs: int = 6) -> tuple[Moments, Moments]:
    """Moments of fewer samples than a quarter of the inputs, with and without their rows."""
    sums, x = MomentSums(), torch.randn(16, inputs) + 5
    t = x @ torch.randn(inputs, outputs)
    for part in range(0, 16, 8):
        sums.add(x[part : part + 8], t[part : part + 8])
    found = sums.moments()
    assert found.rows is not None
    return found, replace(found, rows=None)


def test_few_samples_have_the_same_covariances() -> None:
    found, plain = few_and_the_same_without_rows()
    x, t = (part * 4 for part in found.rows or ())
    expected = torch.cov(torch.cat([x, t], 1).T, correction=0)
    torch.testing.assert_close(plain.xx, expected[:72, :72])
    torch.testing.assert_close(plain.tx, expected[72:, :72])
    torch.testing.assert_close(plain.tt, expected[72:, 72:])


def test_few_samples_give_the_same_filters_by_an_unknown_for_each() -> None:
    found, plain = few_and_the_same_without_rows()
    prior = torch.randn(6, 72)
    torch.testing.assert_close(fit_filters(found, prior), fit_filters(plain, prior))
    columns = torch.tensor([3, 70, 12])
    assert found.of_inputs(torch.arange(5, 71)).rows is not None
    torch.testing.assert_close(
        fit_filters(found.of_inputs(columns), prior[:, columns]),
        fit_filters(plain.of_inputs(columns), prior[:, columns]),
    )


def test_few_samples_have_the_same_moments_of_merged_inputs() -> None:
    found, plain = few_and_the_same_without_rows()
    fitted, gain = torch.randn(6, 8, 9).double(), torch.rand(6)
    few, plain_ones = merge_inputs(found, fitted, gain, 3), merge_inputs(plain, fitted, gain, 3)
    torch.testing.assert_close(few.combinations, plain_ones.combinations)
    torch.testing.assert_close(few.prior, plain_ones.prior)
    torch.testing.assert_close(few.moments.xx, plain_ones.moments.xx)
    torch.testing.assert_close(few.moments.tx, plain_ones.moments.tx)
