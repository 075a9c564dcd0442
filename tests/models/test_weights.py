"""Weights are loaded strictly and never run code."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ghostify import InputError, create_model
from ghostify.models.weights import load_weights_


@pytest.mark.parametrize(("name", "file"), [("resnet20", "resnet20-12fca82f.th"), ("resnet56", "resnet56-4bfd9763.th")])
def test_the_given_cifar_weights_load_strictly(shared: Path, name: str, file: str) -> None:
    model = load_weights_(create_model(name), shared / "weights" / file)
    stored = torch.load(shared / "weights" / file, map_location="cpu", weights_only=True)["state_dict"]
    assert torch.equal(model.layer3[0].conv1.weight, stored["module.layer3.0.conv1.weight"])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_state_dict_comes_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    model, path = create_model("tiny:Tiny"), tmp_path / f"weights{suffix}"
    state = model.state_dict()
    if suffix == ".pt":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        save_file(state, path)
    loaded = load_weights_(create_model("tiny:Tiny"), path).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    trap, path = tmp_path / "ran", tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Bomb(str(trap))))
    with pytest.raises(InputError, match=r"not opened|cut short"):
        load_weights_(create_model("tiny:Tiny"), path)
    torch.save({"state_dict": Bomb(str(trap))}, path)
    with pytest.raises(InputError, match="more than tensors"):
        load_weights_(create_model("tiny:Tiny"), path)
    assert not trap.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    state = create_model("tiny:Tiny").state_dict()
    torch.save(state, path) if suffix == ".pt" else save_file(state, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="cut short"):
        load_weights_(create_model("tiny:Tiny"), path)


def test_weights_of_another_network_are_refused_with_the_first_difference(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(create_model("tiny:Tiny", width=8).state_dict(), path)
    with pytest.raises(InputError, match=r"conv1.weight is \[8, 3, 3, 3\], expected \[16"):
        load_weights_(create_model("tiny:Tiny"), path)
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"no 'conv1\.bias'"):
        load_weights_(create_model("tiny:Tiny"), path)


def test_a_new_head_leaves_only_the_last_layer_out(tmp_path: Path) -> None:
    path, stored = tmp_path / "weights.pt", create_model("tiny:Tiny", num_classes=7)
    torch.save(stored.state_dict(), path)
    with pytest.raises(InputError, match=r"head.weight is \[7, 32\], expected \[3, 32\] \(a new head leaves"):
        load_weights_(create_model("tiny:Tiny"), path)
    model = create_model("tiny:Tiny")
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_weights_(model, path, new_head=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[name] if name.startswith("head.") else stored.state_dict()[name])


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="holds no state dict"):
        load_weights_(create_model("tiny:Tiny"), path)
    with pytest.raises(InputError, match="is not there"):
        load_weights_(create_model("tiny:Tiny"), tmp_path / "absent.pt")
    with pytest.raises(InputError, match=r"expected weights as \.safetensors"):
        load_weights_(create_model("tiny:Tiny"), Path(__file__))


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 3)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_names_of_the_network_itself_are_no_prefix(tmp_path: Path, prefix: str) -> None:
    path, stored = tmp_path / "weights.pt", Wrapped()
    torch.save({f"{prefix}{key}": tensor for key, tensor in stored.state_dict().items()}, path)
    assert torch.equal(load_weights_(Wrapped(), path).module.weight, stored.module.weight)


def test_a_network_without_a_last_layer_takes_weights_but_no_new_head(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(4), "bias": torch.ones(4)}, path)
    assert torch.equal(load_weights_(nn.LayerNorm(4), path).bias, torch.ones(4))
    with pytest.raises(InputError, match="LayerNorm has no linear layer or convolution that could be a new head"):
        load_weights_(nn.LayerNorm(4), path, new_head=True)
