"""What becomes of a network where somebody gives images and says no more."""

from typing import Any

import pytest
import torch
from small import Blocks
from torch import Tensor, nn

from ghostify import InputError, convert, count

SHAPE = (3, 16, 16)


@pytest.fixture
def batches() -> list[Tensor]:
    return [torch.randn(32, *SHAPE)]


def test_images_alone_make_a_plan_for_half_of_the_multiply_adds(batches: list[Tensor]) -> None:
    model = Blocks().eval()
    found = convert(model, calibration=batches, effort="fast", skip=["stem"])
    assert 0.45 < count(found.model, SHAPE).macs / count(model, SHAPE).macs <= 0.5
    assert {layer.name: layer.reason for layer in found.layers}["stem"] == "the plan keeps all its channels"
    assert "prune" in {layer.change for layer in found.layers}


@pytest.mark.parametrize("said", [{"ratio": 2}, {"cheap": "depthwise"}, {"cheap_kernel_size": 3}])
def test_whoever_says_how_gets_the_papers_ghosts(batches: list[Tensor], said: Any) -> None:
    found = convert(Blocks().eval(), calibration=batches, effort="fast", **said)
    assert {layer.change for layer in found.layers} == {"depthwise ghosts"}
    assert all((layer.kept, layer.ghosted) == (8, 8) for layer in found.layers)


class Several(Blocks):
    """Returns its features, too."""

    def forward(self, x: Tensor) -> Any:
        features = self.blocks(self.stem(x).relu())
        return {"features": features, "answers": self.head(features.mean((2, 3)))}


class Classes(Blocks):
    """Returns classes only."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).argmax(1)


def test_a_network_of_several_outputs_is_planned_too(batches: list[Tensor]) -> None:
    found = convert(Several().eval(), calibration=batches, effort="fast")
    assert {layer.change for layer in found.layers} - {"pointwise ghosts"}
    assert sum(layer.macs_after or 0 for layer in found.layers) < 0.6 * sum(
        layer.macs_before or 0 for layer in found.layers
    )
    assert found.model(batches[0]).keys() == {"features", "answers"}


def test_where_no_plan_can_be_made_the_copy_is_cheaper_all_the_same(batches: list[Tensor]) -> None:
    said: list[str] = []

    def progress(task: str, detail: str, done: int, total: int) -> None:
        said.append(detail)

    found = convert(Classes().eval(), calibration=batches, effort="fast", progress=progress)
    assert any(detail.startswith("none, so pointwise ghosts: the network returns no tensors") for detail in said)
    assert {layer.change for layer in found.layers} == {"pointwise ghosts"}
    fixed = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 64, 3, groups=16), nn.Flatten()).eval()
    assert convert(fixed, calibration=batches, effort="fast").replaced == 1
    with pytest.raises(InputError, match="has no convolution to replace"):
        convert(nn.Sequential(nn.Conv2d(3, 4, 3)), calibration=batches)
    with pytest.raises(InputError, match="skip: 'tail' matches no module"):
        convert(Blocks(), calibration=batches, skip=["tail"])
