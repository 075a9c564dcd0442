"""What is saved comes back, and a file can make nothing run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from ghostify import GhostConv2d, InputError, convert, count, create_model, load, save
from ghostify.models.registry import known_origin
from ghostify.network_file import open_network, read_extra
from ghostify.transform.narrow import narrow


def same_outputs(a: nn.Module, b: nn.Module, size: int) -> bool:
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        return torch.equal(a.eval()(x), b.eval()(x))


def filled(model: nn.Module) -> nn.Module:
    """BatchNorm statistics that are not those of a new network."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
    return model


@pytest.mark.parametrize(
    "build",
    [
        lambda: create_model("ghost_resnet20", num_classes=7, ratio=3),
        lambda: convert(create_model("resnet20"), cheap="pointwise", skip=["layer1"]).model,
        lambda: convert(torchvision.models.mobilenet_v2(num_classes=7)).model,  # nobody noted how it was built
        lambda: convert(torchvision.models.googlenet(num_classes=4, init_weights=False)).model,
        lambda: create_model("timm:ghostnet_100", num_classes=3),
    ],
    ids=["ghost builder", "converted", "converted torchvision", "side heads", "timm"],
)
def test_a_network_comes_back_with_the_same_function(build: Any, tmp_path: Path) -> None:
    model, path = filled(build()), tmp_path / "deep" / "network.safetensors"
    save(model, path)
    assert same_outputs(model, load(path), 64)
    assert [file.name for file in path.parent.iterdir()] == ["network.safetensors"]


def test_a_narrowed_network_comes_back(tmp_path: Path) -> None:
    model = create_model("resnet20")
    narrowed, path = narrow(model, (3, 32, 32), count(model, (3, 32, 32)).macs // 2), tmp_path / "n.safetensors"
    save(narrowed, path)
    assert same_outputs(narrowed, load(path), 32)


def test_a_loaded_network_can_be_converted_and_saved_again(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(create_model("resnet20"), path)
    ghost = convert(load(path)).model
    save(ghost, path)
    assert same_outputs(ghost, load(path), 32)


def test_a_shared_layer_is_stored_once_and_stays_shared(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = create_model("test_network_file:Sharing")
    model.a.weight.data.normal_()
    save(convert(model).model, path)
    assert sum("primary.weight" in key for key in load_file(path)) == 1
    loaded = load(path, factory="test_network_file:Sharing")
    assert isinstance(loaded.a, GhostConv2d)
    assert loaded.a is loaded.b


class Sharing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(16, 16, 3)
        self.b = self.a

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


def test_half_precision_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(create_model("resnet20").bfloat16(), path)
    assert load(path).conv1.weight.dtype == torch.bfloat16


def test_extra_notes_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(create_model("resnet20"), path, extra={"mean": [0.5, 0.4, 0.3]})
    assert read_extra(path) == {"mean": [0.5, 0.4, 0.3]}


def test_a_network_of_unknown_origin_is_refused_and_nothing_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="build the network with create_model"):
        save(nn.Sequential(nn.Linear(2, 2)), path)
    changed = create_model("resnet20")
    changed.layer1 = nn.Identity()
    with pytest.raises(InputError, match="how this ResNetCifar was built is not known"):
        save(changed, path)
    assert list(tmp_path.iterdir()) == []


def rewritten(path: Path, **changes: Any) -> None:
    """The same tensors with another note on how to build the network."""
    note = {"format": 1, "origin": {"name": "resnet20", "options": {}}, "replaced": {}, "extra": {}} | changes
    tensors = load_file(path)
    save_file(tensors, path, metadata={"ghostify": json.dumps(note)})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    save(create_model("resnet20"), path)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"origin": {"name": "os:getcwd", "options": {}}}, "code that is not run on a file's word"),
        ({"origin": {"name": "resnet20", "options": {"weights": "DEFAULT"}}}, "weights is not taken"),
        ({"origin": {"name": "timm:ghostnet_100", "options": {"checkpoint_path": "x.pth"}}}, "is not taken"),
        ({"origin": {"name": "resnet21", "options": {}}}, "code that is not run|there is no network"),
        ({"origin": 3}, "does not say how"),
        ({"replaced": {"conv9": {"kind": "Conv2d"}}}, "cannot be built again"),
        ({"replaced": {"conv1": {"kind": "eval", "source": "1"}}}, "cannot be built again"),
        ({"replaced": {"conv1": {"kind": "Conv2d", "in_channels": "a"}}}, "cannot be built again"),
        ({"origin": {"name": "resnet56", "options": {}}}, "does not go with resnet56"),
        ({"format": 99}, "of another format"),
    ],
)
def test_a_file_that_asks_for_too_much_or_does_not_fit_is_refused(
    saved: Path, changes: dict[str, Any], message: str
) -> None:
    rewritten(saved, **changes)
    with pytest.raises(InputError, match=message):
        load(saved)


def test_truncated_foreign_and_absent_files_are_refused(saved: Path, tmp_path: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(InputError, match="cut short"):
        load(saved)
    torch.save({"a": 1}, saved)
    with pytest.raises(InputError, match="no network written by save"):
        load(saved)
    save_file({"a": torch.zeros(1)}, saved)
    with pytest.raises(InputError, match="holds tensors only"):
        load(saved)
    with pytest.raises(InputError, match="is not there"):
        load(tmp_path / "absent.safetensors")


def test_open_network_takes_names_and_files(saved: Path) -> None:
    assert known_origin(open_network(str(saved))) == known_origin(open_network("resnet20"))
    assert open_network("resnet20", num_classes=4).linear.out_features == 4
    with pytest.raises(InputError, match="leave out num_classes"):
        open_network(str(saved), num_classes=4)
