"""Scores are counted right."""

import pytest
import torch
from torch import Tensor, nn

from ghostify.data.images import ImageData, MemoryImages
from ghostify.errors import InputError
from ghostify.jobs.evaluate import Score, check_fit, evaluate


class Fixed(nn.Module):
    """Ranks six classes as the first pixel says: class p first, then p+1, and so on around."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, 0, 0, 0].round().long()[:, None]
        return -((torch.arange(6) - first) % 6).float()


def test_top1_and_top5_are_counted_by_hand() -> None:
    pixels = torch.tensor([0, 1, 2, 3], dtype=torch.uint8)[:, None, None, None].expand(4, 3, 2, 2)
    labels = torch.tensor([0, 1, 4, 2])  # right, right, third guess, sixth guess
    images = MemoryImages(pixels, labels)
    data = ImageData("made up", images, None, images, tuple("abcdef"), 2, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    model = Fixed().train()
    score = evaluate(model, images, data, batch_size=3)
    assert (score.images, score.right, score.right_in_5) == (4, 2, 3)
    assert model.training


def test_the_wilson_interval_is_that_of_the_formula() -> None:
    n, p, z = 250, 0.88, 1.959963984540054
    centre, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    low, high = Score(((250, 220, 250),)).interval
    assert abs(low - (centre - half) / (1 + z * z / n)) < 1e-12
    assert abs(high - (centre + half) / (1 + z * z / n)) < 1e-12


def test_a_network_that_gives_no_tensor_is_refused() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": x.mean((2, 3))}

    images = MemoryImages(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(InputError, match=r"Named returns a dict: expected a tensor \[batch, 3\]"):
        check_fit(Named(), ImageData("made up", images, None, images, tuple("abc"), 2))
