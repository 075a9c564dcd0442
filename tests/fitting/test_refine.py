"""Refinement brings a network nearer to another one, and what brings it no nearer is undone."""

import copy

import pytest
import torch
from torch import Tensor, nn

from ghostify.fitting.refine import Refinement, refine_, refine_whole_


def make_pair() -> tuple[nn.Module, nn.Module, list[Tensor]]:
    """A network, a copy with other weights in one layer, and images."""
    original = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 64, 4)
    ).eval()
    ghost = copy.deepcopy(original)
    with torch.no_grad():
        ghost.get_parameter("0.weight").add_(0.1 * torch.randn(8, 3, 3, 3))
    return original, ghost, list(torch.randn(64, 3, 8, 8).split(16))


@torch.no_grad()
def apart(original: nn.Module, ghost: nn.Module, x: Tensor) -> float:
    """Mean squared error over variance."""
    return float((ghost(x) - original(x)).square().mean() / original(x).var())


def refine(original: nn.Module, ghost: nn.Module, batches: list[Tensor], lr: float, passes: int = 8) -> None:
    how, generator = Refinement(lr, passes), torch.Generator().manual_seed(0)
    refine_whole_(ghost, original, {"0": None}, batches, [torch.randn(64, 3, 8, 8)], generator, how=how)


def test_the_whole_comes_nearer_on_images_that_it_has_not_seen() -> None:
    original, ghost, batches = make_pair()
    others = torch.randn(256, 3, 8, 8)
    before = apart(original, ghost, others)
    refine(original, ghost, batches, 3e-3, passes=40)
    assert apart(original, ghost, others) < 0.5 * before


def test_a_network_that_shares_no_end_of_a_block_learns_the_output_alone() -> None:
    original, ghost, batches = make_pair()
    before = apart(original, ghost, batches[0])
    how, generator = Refinement(3e-3, 40), torch.Generator().manual_seed(0)
    refine_whole_(ghost, original, {}, batches, [torch.randn(64, 3, 8, 8)], generator, how=how)
    assert apart(original, ghost, batches[0]) < 0.5 * before


@pytest.mark.parametrize("lr", [0.0, 10.0], ids=["nothing learnt", "much too high"])
def test_what_brings_no_nearer_is_undone(lr: float) -> None:
    original, ghost, batches = make_pair()
    before = copy.deepcopy(ghost.state_dict())
    refine(original, ghost, batches, lr)
    assert all(torch.equal(ghost.state_dict()[name], weight) for name, weight in before.items())
    refine_(
        ghost, batches, [original(x).detach() for x in batches], torch.Generator().manual_seed(0), how=Refinement(lr, 3)
    )
    assert all(torch.equal(ghost.state_dict()[name], weight) for name, weight in before.items())


def test_what_was_learnt_by_heart_does_not_count() -> None:
    original, ghost, batches = make_pair()
    few, others = batches[0][:4], torch.randn(256, 3, 8, 8)
    refine_(ghost, [few], [original(few).detach()], torch.Generator().manual_seed(0), how=Refinement(6e-3, 150, 4))
    by_heart, before = apart(original, ghost, few), apart(original, ghost, others)
    refine(original, ghost, [few], 1e-3, passes=200)
    assert apart(original, ghost, few) > by_heart
    assert apart(original, ghost, others) < before
