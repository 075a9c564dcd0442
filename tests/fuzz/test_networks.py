"""The first of the random networks; ``python tests/fuzz/networks.py`` takes hundreds."""

import pytest
import torch
from networks import SECONDS, Case, bounded
from random_networks import BLOCKS, HEADS, drawn_parts, factory, images
from torch.utils._pytree import tree_leaves

SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_network_comes_back_from_every_verb_as_it_should_or_one_line_says_why_not(seed: int) -> None:
    case = Case(seed)
    with bounded(case, SECONDS):
        case.check(exports=seed % 4 == 0)
    assert case.failed == {}, drawn_parts(seed)


def test_the_network_of_a_seed_is_the_same_each_time_and_takes_no_random_numbers() -> None:
    before = torch.get_rng_state()
    one, other = factory(5), factory(5)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_every_block_runs(name: str) -> None:
    with torch.no_grad():
        for seed in range(3):
            assert factory(seed, [name], "maps_out", "nothing")(images(seed, 2)).isfinite().all()


@pytest.mark.parametrize("name", sorted(HEADS))
def test_every_head_runs(name: str) -> None:
    with torch.no_grad():
        outputs = factory(0, ["plain"], name, "nothing")(images(0, 2))
    tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
    assert tensors
    assert all(bool(tensor.isfinite().all()) for tensor in tensors)
