"""Weights are found in the files that trainers write, loaded strictly, and never run code."""

import argparse
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from ghostify import InputError, create_model
from ghostify.models.weights import OtherHeadError, load_weights_

State = dict[str, Tensor]


def tiny(**options: int) -> nn.Module:
    return create_model("tiny:Tiny", **options)


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def optimizer_state(state: State) -> dict[str, Any]:
    """As Adam's, whose tensors have names, too."""
    moments = {i: {"step": torch.tensor(7.0), "exp_avg": torch.zeros_like(t)} for i, t in enumerate(state.values())}
    return {"state": moments, "param_groups": [{"lr": 0.1, "params": list(moments)}]}


def lightning(prefix: str) -> Callable[[State], Any]:
    return lambda state: {
        "epoch": 3,
        "state_dict": prefixed(prefix, state) | {"loss.weight": torch.ones(3), "metric.total": torch.tensor(1.0)},
        "callbacks": {"best": {"score": torch.tensor(0.5)}},
        "optimizer_states": [optimizer_state(state)],
    }


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "plain": dict,
    "an OrderedDict": OrderedDict,
    "model": lambda state: {"model": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": torch.tensor(0.1), "epoch": 2},
    "net and optimizer": lambda state: {"net": state, "optimizer": optimizer_state(state), "epoch": 7, "acc": 91.5},
    "nested": lambda state: {"checkpoint": {"weights": {"state_dict": state}}, "best": 0.5},
    "in a list": lambda state: [3, {"weights": state}],
    "module.": lambda state: {"state_dict": prefixed("module.", state)},
    "_orig_mod.": lambda state: prefixed("_orig_mod.", state),
    "_orig_mod.module.": lambda state: {"model": prefixed("_orig_mod.module.", state)},
    "model._orig_mod.": lambda state: {"state_dict": prefixed("model._orig_mod.", state)},
    "a part in a wrapper": lambda state: {name.replace("conv1.", "conv1.module."): t for name, t in state.items()},
    "Lightning's model.": lightning("model."),
    "Lightning's net.": lightning("net."),
    "Lightning's backbone.": lightning("model.backbone."),
    "without counters": lambda state: {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")},
    "in half precision": lambda state: {n: t.half() if t.is_floating_point() else t for n, t in state.items()},
    "in bf16": lambda state: {n: t.bfloat16() if t.is_floating_point() else t for n, t in state.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_are_found_as_trainers_lay_them_out(tmp_path: Path, layout: str) -> None:
    path, state = tmp_path / "weights.pth", tiny().state_dict()
    torch.save(LAYOUTS[layout](state), path)
    loaded = load_weights_(tiny(), path).state_dict()
    rounding = torch.bfloat16 if "bf16" in layout else torch.float16 if "half" in layout else torch.float32
    for name, tensor in state.items():
        assert loaded[name].dtype == tensor.dtype
        expected = tensor.to(rounding) if tensor.is_floating_point() else tensor
        assert torch.equal(loaded[name], expected.to(tensor.dtype))


@pytest.mark.parametrize("ending", ["ckpt", "bin", "pt", "pth", "th", "pth.tar", "tar", "model", "safetensors"])
@pytest.mark.parametrize("kind", ["zip", "former", "safetensors"])
def test_a_file_is_read_by_what_it_holds_whatever_its_ending(tmp_path: Path, ending: str, kind: str) -> None:
    path, state = tmp_path / f"weights.{ending}", tiny().state_dict()
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    assert torch.equal(load_weights_(tiny(), path).conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize("key", ["ema", "model_ema", "state_dict_ema", "ema_state_dict"])
def test_averaged_weights_are_taken_before_the_last_ones_and_that_is_said(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, last, averaged = tmp_path / "weights.pt", tiny().state_dict(), tiny().state_dict()
    torch.save({"model": last, key: prefixed("module.", averaged), "optimizer": optimizer_state(last)}, path)
    assert torch.equal(load_weights_(tiny(), path).conv1.weight, averaged["conv1.weight"])
    assert caplog.messages == [f"{path}: took the weights under {key!r}, not those under 'model'"]


def test_averages_that_lack_buffers_are_not_taken(tmp_path: Path) -> None:
    path, net = tmp_path / "weights.pt", tiny()
    averaged = {name: torch.zeros_like(parameter) for name, parameter in net.named_parameters()}
    torch.save({"model": net.state_dict(), "ema": averaged}, path)
    assert torch.equal(load_weights_(tiny(), path).conv1.weight, net.conv1.weight)


def test_what_lies_beside_the_prefix_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "weights.ckpt"
    torch.save(lightning("model.")(tiny().state_dict()), path)
    load_weights_(tiny(), path)
    assert caplog.messages == [f"{path}: took the weights that begin with 'model.'; left out: 2, such as 'loss.weight'"]


def masked(state: State) -> State:
    """As ``torch.nn.utils.prune`` leaves a layer; of its weights and mask, only the product is the network's."""
    found = dict(state)
    weight = found.pop("conv1.weight")
    mask = (torch.arange(weight.numel()) % 3 > 0).reshape(weight.shape)
    return found | {"conv1.weight_orig": torch.where(mask, weight, 7.0), "conv1.weight_mask": mask.float()}


def counted(state: State) -> State:
    return dict(state) | {
        "total_ops": torch.zeros(1),
        "conv1.total_ops": torch.zeros(1),
        "bn1.total_params": torch.ones(1),
    }


def averaged_beside(state: State) -> State:
    return dict(state) | {f"ema_{name.replace('.', '_')}": torch.zeros_like(tensor) for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("add", [counted, averaged_beside])
def test_what_a_tool_added_is_left_out_and_said(
    tmp_path: Path, add: Callable[[State], State], prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, state = tmp_path / "weights.pt", tiny().state_dict()
    torch.save({"state_dict": prefixed(prefix, add(state))}, path)
    loaded = load_weights_(tiny(), path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert "left out what a tool added, such as" in caplog.messages[0]


def test_masked_weights_are_multiplied(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.pt", tiny().state_dict()
    torch.save(masked(state), path)
    kept = load_weights_(tiny(), path).conv1.weight.flatten()
    expected = state["conv1.weight"].flatten() * (torch.arange(kept.numel()) % 3 > 0)
    assert torch.equal(kept, expected)


def of_a_parametrisation(state: State) -> State:
    return {name.replace("conv1.weight", "conv1.parametrizations.weight.original"): t for name, t in state.items()}


def of_weight_norm(state: State) -> State:
    found = dict(state)
    weight = found.pop("conv1.weight")
    return found | {"conv1.weight_v": weight, "conv1.weight_g": torch.ones(len(weight), 1, 1, 1)}


def of_spectral_norm(state: State) -> State:
    found = dict(state)
    return found | {"conv1.weight_orig": found.pop("conv1.weight"), "conv1.weight_u": torch.ones(4)}


@pytest.mark.parametrize(
    ("change", "by"),
    [
        (of_a_parametrisation, r"parametrize\.remove_parametrizations"),
        (of_weight_norm, "remove_weight_norm"),
        (of_spectral_norm, "remove_spectral_norm"),
    ],
)
def test_weights_that_a_layer_computes_are_asked_for(tmp_path: Path, change: Callable[[State], State], by: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save(change(tiny().state_dict()), path)
    with pytest.raises(InputError, match=rf"computes them from, .*: expected a file that is saved after .*{by} put"):
        load_weights_(tiny(), path)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight


def test_a_tensor_under_two_names_may_be_stored_once(tmp_path: Path) -> None:
    stored = Tied()
    save_model(stored, str(tmp_path / "tied.safetensors"))
    loaded = load_weights_(Tied(), tmp_path / "tied.safetensors")
    assert torch.equal(loaded.b.weight, stored.a.weight)
    assert loaded.b.weight is loaded.a.weight


@pytest.mark.parametrize(("name", "file"), [("resnet20", "resnet20-12fca82f.th"), ("resnet56", "resnet56-4bfd9763.th")])
def test_the_given_cifar_weights_load_strictly(shared: Path, name: str, file: str) -> None:
    model = load_weights_(create_model(name), shared / "weights" / file)
    stored = torch.load(shared / "weights" / file, map_location="cpu", weights_only=True)["state_dict"]
    assert torch.equal(model.layer3[0].conv1.weight, stored["module.layer3.0.conv1.weight"])


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    trap, path = tmp_path / "ran", tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Bomb(str(trap))))
    with pytest.raises(InputError, match=r"not opened|cut short"):
        load_weights_(tiny(), path)
    for zipped in (True, False):
        torch.save({"state_dict": Bomb(str(trap))}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(InputError, match=r"more than tensors \(posix.mkdir\), and is not opened"):
            load_weights_(tiny(), path)
    assert not trap.exists()


class Settings:
    """As a configuration of somebody else's package."""


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "former"])
@pytest.mark.parametrize(
    ("beside", "named"),
    [
        (argparse.Namespace(lr=0.1), r"argparse\.Namespace"),
        (np.float64(0.5), r"numpy\.\S*"),
        (Settings(), r"\S*test_weights\.Settings"),
        (nn.Conv2d(3, 8, 1), r"torch\.nn\.modules\.conv\.Conv2d"),
    ],
)
def test_the_class_beside_the_tensors_is_named_with_a_remedy(
    tmp_path: Path, beside: Any, named: str, zipped: bool
) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": tiny().state_dict(), "more": beside}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=rf"\({named}.*not opened.*save its state dict alone[^\n]*\Z"):
        load_weights_(tiny(), path)


def test_a_whole_pickled_network_is_refused_as_that(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    torch.save(tiny(), path)
    with pytest.raises(InputError, match=r"holds a whole network with its code \(.*tiny\.Tiny\), and is not opened"):
        load_weights_(tiny(), path)
    torch.jit.trace(tiny(), torch.zeros(1, 3, 8, 8)).save(path)
    with pytest.raises(InputError, match="is a program of TorchScript: save the state dict alone"):
        load_weights_(tiny(), path)


@pytest.mark.parametrize("kind", ["zip", "former", "safetensors"])
@pytest.mark.parametrize("left", [0, 1, 5, 300, -200])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str, left: int) -> None:
    path, state = tmp_path / "weights.pt", tiny().state_dict()
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(InputError, match="is empty" if left == 0 else "cut short"):
        load_weights_(tiny(), path)


def test_weights_of_another_network_are_refused_with_the_first_differences(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(tiny(width=8).state_dict(), path)
    with pytest.raises(InputError, match=r"conv1.weight is \[8, 3, 3, 3\], expected \[16.*, and 6 more"):
        load_weights_(tiny(), path)
    torch.save({"conv1.weight": torch.zeros(1), "x": torch.zeros(1), "y": torch.zeros(2)}, path)
    message = (
        r"it lacks 'conv1\.bias', 'bn1\.weight', 'bn1\.bias' and 6 more and has the unknown 'x', 'y' "
        r"\(9 missing, 2 unknown of 11\)"
    )
    with pytest.raises(InputError, match=message):
        load_weights_(tiny(), path)
    torch.save({"state_dict": create_model("resnet20").state_dict()}, path)
    with pytest.raises(InputError, match=r"is of another network than Tiny: it lacks .* and has the unknown"):
        load_weights_(tiny(), path)


def test_a_new_head_leaves_only_the_last_layer_out(tmp_path: Path) -> None:
    path, stored = tmp_path / "weights.pt", tiny(num_classes=7)
    torch.save({"model": stored.state_dict()}, path)
    with pytest.raises(OtherHeadError, match=r"is for 7 classes, and the network for 3 .* a new head") as refused:
        load_weights_(tiny(), path)
    assert refused.value.classes == 7
    model = tiny()
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_weights_(model, path, new_head=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[name] if name.startswith("head.") else stored.state_dict()[name])


def test_weights_without_a_last_layer_say_so(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.pt", tiny().state_dict()
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith("head.")}, path)
    with pytest.raises(InputError, match=r"no last layer for Tiny, 'head.weight', 'head.bias': load all but"):
        load_weights_(tiny(), path)
    assert torch.equal(load_weights_(tiny(), path, new_head=True).conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no state dict: expected tensors by name, found a list"),
        ({}, "holds no state dict: expected tensors by name, found nothing"),
        (torch.zeros(3), "holds no state dict: expected tensors by name, found a Tensor"),
        ({"epoch": 1, "history": [0.5], "config": {"lr": 0.1}}, "found the keys 'epoch', 'history', 'config'"),
        ({"weights": [torch.zeros(3)]}, "found the keys 'weights'"),
        ({f"key{i}": i for i in range(12)}, "'key7' and 4 more"),
    ],
)
def test_what_is_no_state_dict_is_refused_with_what_was_found(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(InputError, match=message):
        load_weights_(tiny(), path)


def test_a_mapping_that_holds_itself_is_searched_once(tmp_path: Path) -> None:
    path, content = tmp_path / "weights.pt", dict[str, Any](epoch=1)
    content |= {"again": content, "many": [[content] * 100] * 100}
    torch.save(content, path)
    with pytest.raises(InputError, match="found the keys 'epoch', 'again', 'many'"):
        load_weights_(tiny(), path)


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "absent.pt", "is not there"),
        (tmp_path, "is a folder"),
        (Path(__file__), r"expected a state dict, as \.safetensors or by torch\.save"),
    ]:
        with pytest.raises(InputError, match=message):
            load_weights_(tiny(), path)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["conv2.weight", "bn1.running_var", "head.bias"])
def test_numbers_that_are_none_are_refused(tmp_path: Path, number: float, name: str) -> None:
    path, state = tmp_path / "weights.pt", tiny().state_dict()
    state[name].flatten()[1:3] = number
    torch.save(state, path)
    with pytest.raises(InputError, match=rf"2 of the \d+ numbers of {name} are NaN or infinite"):
        load_weights_(tiny(), path)


def test_numbers_that_are_too_large_for_the_network_are_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.pt", tiny().state_dict()
    state["conv2.bias"][3] = 1e6
    torch.save(state, path)
    assert load_weights_(tiny(), path).conv2.bias[3] == 1e6
    with pytest.raises(InputError, match=r"1 of the 32 numbers of conv2\.bias are NaN or infinite"):
        load_weights_(tiny().half(), path)


def test_weights_of_8_bits_are_read(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.pt", tiny().state_dict()
    eighths = state["conv2.weight"].to(torch.float8_e4m3fn)
    torch.save(state | {"conv2.weight": eighths}, path)
    assert torch.equal(load_weights_(tiny(), path).conv2.weight, eighths.float())


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))


def test_a_mask_may_be_infinite_where_a_new_ones_is(tmp_path: Path) -> None:
    path, stored = tmp_path / "weights.pt", Masked()
    torch.save(stored.state_dict(), path)
    assert torch.equal(load_weights_(Masked(), path).mask, stored.mask)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.to(torch.int8), "holds torch.int8"),
        (lambda t: t.to(torch.complex64), "holds torch.complex64"),
        (lambda t: t.to_sparse(), "holds torch.float32, torch.sparse_coo"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "holds torch.qint8"),
        (lambda t: t.to("meta"), "holds nothing but a shape"),
    ],
    ids=["int8", "complex", "sparse", "quantised", "meta"],
)
def test_tensors_of_another_sort_are_refused(tmp_path: Path, spoil: Callable[[Tensor], Tensor], message: str) -> None:
    path, state = tmp_path / "weights.pt", tiny().state_dict()
    torch.save(state | {"conv1.weight": spoil(state["conv1.weight"])}, path)
    with pytest.raises(InputError, match=rf"conv1\.weight {message}.*: expected torch\.float32"):
        load_weights_(tiny(), path)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 3)


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
def test_names_of_the_network_itself_are_no_prefix(tmp_path: Path, prefix: str) -> None:
    path, stored = tmp_path / "weights.pt", Wrapped()
    torch.save({f"{prefix}{key}": tensor for key, tensor in stored.state_dict().items()}, path)
    assert torch.equal(load_weights_(Wrapped(), path).module.weight, stored.module.weight)


def test_a_part_that_fits_several_times_is_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 3)).state_dict(), path)
    with pytest.raises(InputError, match=r"lacks 'weight', 'bias' and has the unknown '0\.weight'"):
        load_weights_(nn.Linear(2, 3), path)


def test_a_network_without_a_last_layer_takes_weights_but_no_new_head(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(4), "bias": torch.ones(4)}, path)
    assert torch.equal(load_weights_(nn.LayerNorm(4), path).bias, torch.ones(4))
    with pytest.raises(InputError, match="LayerNorm has no linear layer or convolution that could be a new head"):
        load_weights_(nn.LayerNorm(4), path, new_head=True)
