"""A removed block passes its input on, and the next one makes up for it."""

from pathlib import Path

import pytest
import torch
from small import Block, Blocks
from torch import Tensor, nn

from ghostify import convert, count, load, save
from ghostify.changes import BlockPlan, Remove


@pytest.fixture
def batches() -> list[Tensor]:
    return [torch.randn(64, 3, 16, 16)]


def test_its_input_goes_on_and_costs_nothing(batches: list[Tensor], tmp_path: Path) -> None:
    model = Blocks().eval()
    found = convert(model, plan={"blocks.1": BlockPlan(Remove(16))}, calibration=batches, effort="fast")
    assert isinstance(found.model.blocks[1], nn.Identity)  # type: ignore[index]  # a Sequential
    saved = count(model, (3, 16, 16)).macs - count(found.model, (3, 16, 16)).macs
    assert saved == 2 * 16 * 16 * 9 * 256
    rows = {row.name: row for row in found.layers}
    assert (rows["blocks.1"].change, rows["blocks.1"].macs_after) == ("remove", 0)
    assert rows["blocks.1.conv1"].change == rows["blocks.1.conv2"].change == "gone with its block"
    save(found.model, tmp_path / "removed.safetensors")
    again = load(tmp_path / "removed.safetensors", factory="small:Blocks")
    assert torch.equal(again(batches[0]), found.model(batches[0]))


def test_the_block_behind_makes_up_for_it(batches: list[Tensor]) -> None:
    model = Blocks().eval()
    found = convert(model, plan={"blocks.1": BlockPlan(Remove(16))}, calibration=batches, effort="fast").model
    alone = Blocks().eval()
    alone.load_state_dict(model.state_dict())
    alone.blocks[1] = nn.Identity()
    x = torch.randn(64, 3, 16, 16)
    with torch.no_grad():
        errors = [float((network(x) - model(x)).square().mean()) for network in (found, alone)]
    assert errors[0] < 0.5 * errors[1]


class Below(nn.Module):
    """The block's input is below 0 here and there, and a ReLU is behind its sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 16, 3, padding=1), Block()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.stem(x))


def test_a_relu_behind_its_sum_stays_where_it_does_something(batches: list[Tensor], tmp_path: Path) -> None:
    found = convert(Below().eval(), plan={"block": BlockPlan(Remove(16))}, calibration=batches, effort="fast").model
    assert isinstance(found.block, nn.ReLU)
    save(found, tmp_path / "below.safetensors")
    again = load(tmp_path / "below.safetensors", factory=f"{__name__}:Below")
    assert torch.equal(again(batches[0]), found(batches[0]))
