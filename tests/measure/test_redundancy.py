from itertools import permutations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ghostify.measure import redundancy
from ghostify.measure.redundancy import (
    Pair,
    constant_maps,
    explained_alone,
    explained_by_combinations,
    explained_by_filters,
    fit_filter,
    fit_filters_between,
    most_similar,
    usable_sizes,
)

SIZES = (1, 3, 5)


def some_maps(maps: int = 6, height: int = 7, width: int = 9) -> Tensor:
    """Neither square nor independent: two are blurred copies, one is constant."""
    torch.manual_seed(0)
    x = torch.randn(maps, height, width)
    x[1] = 0.3 * x[0] + 0.2 * x[0].roll(1, 0) + 0.1 * torch.randn(height, width)
    x[3] = -2 * x[2] + 5
    x[4] = 1.5
    return x


def plain_fit(source: NDArray[np.float64], target: NDArray[np.float64], d: int) -> tuple[NDArray[np.float64], float]:
    """Weights, bias last, and share of variance left; pixel by pixel and tap by tap."""
    height, width = source.shape
    rows = []
    for y in range(height):
        for x in range(width):
            row = []
            for dy in range(-(d // 2), d // 2 + 1):
                for dx in range(-(d // 2), d // 2 + 1):
                    inside = 0 <= y + dy < height and 0 <= x + dx < width
                    row.append(source[y + dy, x + dx] if inside else 0.0)
            rows.append([*row, 1.0])
    design, wanted = np.array(rows), target.reshape(-1)
    solution = np.linalg.lstsq(design, wanted, rcond=None)[0]
    left = wanted - design @ solution
    return solution, float((left**2).sum() / ((wanted - wanted.mean()) ** 2).sum())


@pytest.mark.parametrize("chunk", [1, 2**24], ids=["a source at a time", "all at once"])
def test_all_filters_are_those_of_a_plain_double_loop(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redundancy, "CHUNK_VALUES", chunk)
    maps = some_maps()
    plain, says = maps.double().numpy(), [0, 1, 2, 3, 5]
    for d, fits in fit_filters_between(maps, SIZES).items():
        for target in says:
            left = {s: plain_fit(plain[s], plain[target], d)[1] for s in says}
            for source in says:
                assert float(fits.errors[target, source]) == pytest.approx(left[source], abs=1e-8)
            partner = int(fits.partners[target])
            assert left[partner] == pytest.approx(min(left[s] for s in says if s != target), abs=1e-8)
            solution, _ = plain_fit(plain[partner], plain[target], d)
            np.testing.assert_allclose(fits.weights[target].numpy().ravel(), solution[:-1], atol=1e-6)
            assert float(fits.biases[target]) == pytest.approx(solution[-1], abs=1e-6)
        assert fits.errors[4].eq(0).all()  # nothing is left of a constant map
        assert 4 not in fits.partners[says]  # nor is it anybody's partner


@pytest.mark.parametrize("d", SIZES)
def test_one_filter_is_that_of_a_plain_loop_and_gives_what_it_says(d: int) -> None:
    source, target = some_maps()[:2]
    found = fit_filter(source, target, d)
    solution, left = plain_fit(source.double().numpy(), target.double().numpy(), d)
    np.testing.assert_allclose(found.weight.numpy().ravel(), solution[:-1], atol=1e-6)
    assert found.error == pytest.approx(left, abs=1e-8)
    given = torch.nn.functional.conv2d(source.double()[None, None], found.weight[None, None], padding=d // 2)
    mse = (given[0, 0] + found.bias - target.double()).square().mean()
    assert found.mse == pytest.approx(float(mse), rel=1e-6)
    assert found.error == pytest.approx(found.mse / float(target.double().var(correction=0)), rel=1e-9)


def test_a_larger_filter_never_leaves_more() -> None:
    errors = [fits.errors for fits in fit_filters_between(some_maps(), SIZES).values()]
    assert (errors[1] <= errors[0] + 1e-9).all()
    assert (errors[2] <= errors[1] + 1e-9).all()


def test_a_shifted_copy_is_found_by_a_filter_that_reaches_it() -> None:
    x = torch.zeros(2, 12, 12)
    x[0, 4:8, 4:8] = torch.arange(16.0).view(4, 4)
    x[1] = x[0].roll((2, 1), (0, 1))
    fits = fit_filters_between(x, SIZES)
    assert fits[5].errors[1, 0] < 1e-9 < fits[3].errors[1, 0]
    weight = fits[5].weights[1]
    assert weight[0, 1] == pytest.approx(1.0, abs=1e-6)
    assert weight.abs().sum() == pytest.approx(1.0, abs=1e-4)


def test_pairs_are_the_most_similar_and_share_no_map() -> None:
    errors = fit_filters_between(some_maps(), [3])[3].errors
    constant = constant_maps(some_maps())
    pairs = most_similar(errors, constant, 5)
    assert {frozenset((pair.source, pair.target)) for pair in pairs[:2]} == {frozenset((2, 3)), frozenset((0, 1))}
    assert len(pairs) == 2  # the fifth map is left alone, the constant one takes no part
    left = {(t, s): float(errors[t, s]) for t, s in permutations([0, 1, 2, 3, 5], 2)}
    for pair in pairs:  # greedily, by a plain search
        target, source = min(left, key=lambda key: left[key])
        assert pair == Pair(source, target, left[target, source])
        left = {key: error for key, error in left.items() if not {target, source} & set(key)}


def test_only_constant_maps_have_no_pairs() -> None:
    maps = torch.ones(3, 4, 5)
    assert constant_maps(maps).all()
    assert most_similar(fit_filters_between(maps, [1])[1].errors, constant_maps(maps), 5) == []
    assert explained_by_combinations(maps).eq(1).all()


def test_combinations_explain_what_a_fit_on_the_chosen_maps_explains() -> None:
    maps = some_maps()
    values = maps.double().flatten(1).numpy()
    centred = values - values.mean(1, keepdims=True)
    shares = explained_by_combinations(maps)
    chosen: list[int] = []
    for m in range(len(maps)):  # the plain greedy: try each
        left = {}
        for candidate in set(range(len(maps))) - set(chosen):
            basis = centred[[*chosen, candidate]]
            fitted = np.linalg.lstsq(basis.T, centred.T, rcond=None)[0].T @ basis
            left[candidate] = ((centred - fitted) ** 2).sum()
        best = min(left, key=lambda key: left[key])
        chosen.append(best)
        assert float(shares[m]) == pytest.approx(1 - left[best] / (centred**2).sum(), abs=1e-9)


def test_filters_explain_what_the_best_of_the_chosen_maps_leaves() -> None:
    maps = torch.cat([some_maps(), some_maps(5).flip(2)])
    errors = fit_filters_between(maps, [3])[3].errors
    variance = maps.double().flatten(1).var(1, correction=0)
    shares = explained_by_filters(maps, errors)
    chosen: list[int] = []
    for m in range(len(maps)):
        explained = {}
        for candidate in set(range(len(maps))) - set(chosen):
            tried = [*chosen, candidate]
            left = [0.0 if t in tried else min(float(errors[t, s]) for s in tried) for t in range(len(maps))]
            explained[candidate] = 1 - sum(e * float(v) for e, v in zip(left, variance, strict=True)) / float(
                variance.sum()
            )
        best = max(explained, key=lambda key: explained[key])
        chosen.append(best)
        assert float(shares[m]) == pytest.approx(explained[best], abs=1e-9)


def test_each_way_explains_all_with_all_maps_and_combinations_the_most() -> None:
    maps = some_maps()
    alone, combined = explained_alone(maps), explained_by_combinations(maps)
    filtered = explained_by_filters(maps, fit_filters_between(maps, [1])[1].errors)
    for shares in (alone, combined, filtered):
        assert shares[-1] == pytest.approx(1.0)
        assert (shares.diff() >= -1e-12).all()
    assert (combined >= filtered - 1e-9).all()  # a 1×1 filter of one map is a combination of all


def test_small_maps_are_not_asked_about_large_filters() -> None:
    assert usable_sizes(32, 32) == (1, 3, 5, 7)
    assert usable_sizes(8, 8) == (1, 3)  # 64 pixels, 26 unknowns of a 5×5 filter and its constant
    assert usable_sizes(16, 16) == (1, 3, 5)
    assert usable_sizes(3, 3) == ()
