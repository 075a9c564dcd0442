"""Calibration images are training images, each at most once."""

from pathlib import Path

import pytest
import torch

from ghostify import InputError
from ghostify.data import load_data
from ghostify.data.augment import normalise
from ghostify.data.sample import draw_inputs


def test_each_drawn_image_is_another_training_image(colours: Path) -> None:
    data = load_data(f"npz:{colours}")
    drawn = torch.cat(draw_inputs(data, 40, seed=1, batch_size=16))
    train = normalise(data.train.pixels, data.mean, data.std)
    matches = (drawn[:, None] == train[None]).flatten(2).all(2)
    assert matches.sum(1).tolist() == [1] * 40
    assert len(set(matches.int().argmax(1).tolist())) == 40


def test_the_seed_decides_and_all_is_the_most(colours: Path) -> None:
    data = load_data(f"npz:{colours}")
    first, again, other = (torch.cat(draw_inputs(data, 100, seed=seed)) for seed in (0, 0, 1))
    assert len(first) == 60
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(InputError, match="images is 0"):
        draw_inputs(data, 0)
