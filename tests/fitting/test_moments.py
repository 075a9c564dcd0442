"""Covariances added up batch by batch are those of all samples."""

import torch

from ghostify.fitting.moments import MomentSums


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
