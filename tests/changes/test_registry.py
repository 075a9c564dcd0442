"""A new kind of change is one class, registered: everything else takes it as it is."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from small import Blocks
from torch import Tensor, nn

from ghostify import InputError, convert, count, create_model, deploy, export, load, plan, save
from ghostify.changes import (
    AnyPlan,
    BlockChange,
    BlockPlan,
    Convolution,
    Fitted,
    InputChange,
    LayerPlan,
    MergeInputs,
    OutputChange,
    PointwiseGhosts,
    ResidualBlock,
    Sizes,
    registry,
)
from ghostify.changes.change import Described
from ghostify.cli.plan import print_plan
from ghostify.fitting.samples import LayerSamples, SumSamples
from ghostify.planning.plan_file import read_plan, write_plan

SHAPE = (3, 16, 16)
EXAMPLE = torch.zeros(1, *SHAPE)


@dataclass(frozen=True)
class LeaveOut(BlockChange):
    """A residual block is removed: its input goes on as it is."""

    kind = "leave out"
    layers: ClassVar[Described] = {nn.Identity: lambda layer: {}}
    channels: int

    @classmethod
    def offered(cls, block: ResidualBlock, sizes: Sizes) -> Iterable[Self]:
        yield cls(block.channels)

    @property
    def ghosted(self) -> int:
        return 0

    def untrained(self) -> nn.Module:
        return nn.Identity()

    def fit(self, samples: SumSamples) -> Fitted:
        return Fitted(nn.Identity())


@pytest.fixture
def leaving_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only change of whole blocks that plans know is one that is none of the project's."""
    own = {name: kind for name, kind in registry.KINDS.items() if not issubclass(kind, BlockChange)}
    monkeypatch.setattr(registry, "KINDS", own)
    registry.register(LeaveOut)


def left_out(plans: Any) -> list[str]:
    return [name for name, layer in plans.items() if isinstance(layer, BlockPlan) and layer.changes]


@pytest.mark.usefixtures("leaving_out", "steady")
@pytest.mark.parametrize(
    "target", [{"target_macs": 0.08, "whole_blocks": True, "merging": False}, {"target_speedup": 8.0}]
)
def test_all_that_plans_go_through_takes_a_change_that_it_has_never_heard_of(
    target: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, batches = Blocks().eval(), [torch.randn(32, *SHAPE)]
    found = plan(model, example=EXAMPLE, calibration=batches, **target)
    gone = left_out(found)
    assert gone, "it is chosen"
    assert all(found[name].changes == (LeaveOut(channels(model, name)),) for name in gone)

    write_plan(found, tmp_path / "plan.json")
    again = read_plan(tmp_path / "plan.json")
    assert dict(again) == dict(found)
    rows = json.loads((tmp_path / "plan.json").read_text())["layers"]
    assert rows[gone[0]] == {"block": {"kind": "leave out", "channels": channels(model, gone[0])}}
    print_plan(found, (), tmp_path, all_layers=False)
    assert any(line.split()[:3] == [gone[0], "leave", "out"] for line in capsys.readouterr().out.splitlines())

    conversion = convert(model, calibration=batches, plan=again)
    faster = conversion.model
    assert all(isinstance(faster.get_submodule(name), nn.Identity) for name in gone)
    assert count(faster, SHAPE).macs / count(model, SHAPE).macs == pytest.approx(found.macs, abs=1e-9)
    report = {row.name: row for row in conversion.layers}
    assert (report[gone[0]].change, report[gone[0]].dropped) == ("leave out", channels(model, gone[0]))
    assert report[f"{gone[0]}.conv1"].change == "gone with its block"

    save(faster, tmp_path / "faster.safetensors")
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        expected = faster(x)
        assert torch.equal(load(tmp_path / "faster.safetensors", factory="small:Blocks")(x), expected)
        torch.testing.assert_close(deploy(faster, x)(x), expected, rtol=1e-4, atol=1e-4)
    pytest.importorskip("onnxruntime")
    assert export(faster, tmp_path / "faster.onnx", x).difference < 1e-4


class TwoConvolutions(nn.Module):
    """A convolution of few channels and a 1×1 convolution: a layer of its own."""

    def __init__(self, in_channels: int, out_channels: int, rank: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(in_channels, rank, 3, padding=1), nn.Conv2d(rank, out_channels, 1)
        self.sizes = {"in_channels": in_channels, "out_channels": out_channels, "rank": rank}

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@dataclass(frozen=True)
class Factorise(OutputChange):
    """A convolution becomes two: a singular value decomposition of its fitted filters."""

    kind = "factorise"
    layers: ClassVar[Described] = {TwoConvolutions: lambda layer: layer.sizes}
    kept: int
    rank: int

    @classmethod
    def offered(cls, layer: Convolution, sizes: Sizes) -> Iterable[Self]:
        if layer.kernel_area == 9:
            yield cls(layer.out_channels, layer.out_channels // 4)

    @property
    def size(self) -> None:
        return None

    def macs(self, layer: Convolution, in_channels: int) -> int:
        return self.rank * (in_channels * 9 + self.kept) * layer.pixels

    def untrained(self, conv: nn.Conv2d, input_change: InputChange | None) -> nn.Module:
        return TwoConvolutions(conv.in_channels, conv.out_channels, self.rank).eval()

    def fit(self, samples: LayerSamples, input_change: InputChange | None = None) -> Fitted:
        layer = self.untrained(samples.conv, None)
        filters, bias = samples.with_bias(samples.filters)
        u, s, v = torch.linalg.svd(filters, full_matrices=False)
        layer.first.weight.copy_((s[: self.rank, None] * v[: self.rank]).reshape(layer.first.weight.shape))
        layer.first.bias.zero_()
        layer.second.weight.copy_(u[:, : self.rank, None, None])
        layer.second.bias.copy_(bias)
        return Fitted(layer)


def test_an_output_change_with_a_layer_of_its_own_goes_beside_ghosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "KINDS", {"keep": registry.KINDS["keep"]})
    registry.register(Factorise)
    model, batches = Blocks().eval(), [torch.randn(32, *SHAPE)]
    found = plan(model, example=EXAMPLE, calibration=batches, target_macs=0.6)
    registry.register(PointwiseGhosts)
    kinds = {change.kind for layer in found.values() for change in layer.changes}
    assert "factorise" in kinds
    # Ghosts whose channels go to such a layer only keep putting them in order.
    plans = dict(found) | {
        "blocks.0.conv1": LayerPlan(PointwiseGhosts(8, 8)),
        "blocks.0.conv2": LayerPlan(Factorise(16, 4)),
    }
    faster = convert(model, plan=plans, calibration=batches, effort="fast").model
    assert faster.blocks[0].conv1.order is not None
    save(faster, tmp_path / "faster.safetensors")
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "faster.safetensors", factory="small:Blocks")(x), faster(x))
        torch.testing.assert_close(deploy(faster, x)(x), faster(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="factorise take all input channels"):
        LayerPlan(Factorise(16, 4), MergeInputs(4))


def channels(model: nn.Module, block: str) -> int:
    return model.get_submodule(f"{block}.conv2").out_channels  # type: ignore[return-value]  # a Conv2d's int


@pytest.mark.usefixtures("leaving_out")
def test_one_that_is_not_registered_is_refused_by_name(tmp_path: Path) -> None:
    model = create_model("resnet20").eval()
    plans: dict[str, AnyPlan] = {"layer1.1": BlockPlan(LeaveOut(16))}
    faster = convert(model, calibration=[torch.randn(32, *SHAPE)], plan=plans, effort="fast").model
    save(faster, tmp_path / "faster.safetensors")
    del registry.KINDS["leave out"]
    with pytest.raises(InputError, match=r"'leave out', 'channels': 16}: expected a 'kind' of"):
        registry.change_from({"kind": "leave out", "channels": 16}, BlockChange)
    with pytest.raises(InputError, match=r"a replaced layer of resnet20 cannot be built again: KeyError: 'Identity'"):
        load(tmp_path / "faster.safetensors")


def test_every_kind_is_known_by_a_name_of_its_own_and_comes_back_from_its_row() -> None:
    assert all(registry.KINDS[kind.kind] is kind for kind in registry.KINDS.values())
    for row in (
        {"kind": "keep", "kept": 8},
        {"kind": "prune", "kept": 6, "dropped": 2},
        {"kind": "pointwise ghosts", "kept": 6, "ghosted": 2, "dropped": 0},
        {"kind": "depthwise ghosts", "kept": 4, "ghosted": 4, "dropped": 0, "cheap_kernel_size": 5},
        {"kind": "merge inputs", "rank": 3},
        {"kind": "one convolution", "channels": 8, "kernel_size": 3},
    ):
        assert registry.change_row(registry.change_from(row, registry.KINDS[str(row["kind"])])) == row
