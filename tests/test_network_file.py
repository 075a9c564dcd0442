"""What is saved comes back, and a file can make nothing run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from counted_reads import CountedReads
from safetensors.torch import load_file, save_file
from torch import nn

from ghostify import GhostConv2d, InputError, convert, count, create_model, load, save
from ghostify.models import registry
from ghostify.models.registry import known_origin
from ghostify.network_file import open_network, open_network_file, read_extra, tied_names
from ghostify.structure.channels import drop_channels_of_, find_prunable
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


@pytest.mark.parametrize("name", ["timm:tf_efficientnet_lite0", "touchy:WithOwnRows"])
def test_layers_of_any_class_that_have_lost_rows_come_back(name: str, tmp_path: Path) -> None:
    model = filled(create_model(name))
    example = torch.randn(1, 3, 32, 32)
    places = find_prunable(model, example, [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)])
    narrowed = [place for place in places.values() if not isinstance(place, str) and place.followers]
    for place in narrowed:
        drop_channels_of_(model, place, torch.tensor([1, 3]))
    assert narrowed
    path = tmp_path / "n.safetensors"
    save(model, path)
    again = load(path, factory=name) if ":With" in name else load(path)
    assert same_outputs(model, again, 32)
    assert repr(again) == repr(model)


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


class Tied(Sharing):
    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Conv2d(16, 16, 3)
        self.b.weight = self.a.weight


def tie_weights_(model: nn.Module) -> None:
    model.layer1[1].conv1.weight = model.layer1[0].conv1.weight


def share_a_block_(model: nn.Module) -> None:
    model.layer1[1] = model.layer1[0]


def set_apart_(model: nn.Module) -> None:
    model.b.weight = nn.Parameter(torch.randn(16, 16, 3, 3))


@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize(
    ("name", "change_"),
    [
        ("resnet20", tie_weights_),
        ("resnet20", share_a_block_),
        ("test_network_file:Tied", set_apart_),
        ("test_network_file:Tied", lambda _: None),
    ],
)
def test_what_is_tied_comes_back_tied_and_what_is_apart_apart(
    name: str, change_: Callable[[nn.Module], None], converted: bool, tmp_path: Path
) -> None:
    path, model = tmp_path / "a.safetensors", create_model(name)
    change_(model)
    model = convert(model).model if converted else model
    save(model, path)
    loaded, state = load(path, factory=name), model.state_dict()
    assert tied_names(loaded.state_dict(keep_vars=True)) == tied_names(model.state_dict(keep_vars=True))
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.state_dict().items())


def test_a_file_that_does_not_speak_of_ties_has_those_of_its_origin(tmp_path: Path) -> None:
    path, factory = tmp_path / "a.safetensors", "test_network_file:Tied"
    model = create_model(factory)
    state = {key: tensor for key, tensor in model.state_dict().items() if key != "b.weight"}
    note = {"format": 1, "origin": {"name": factory, "options": {}}, "replaced": {}}
    save_file(state, path, metadata={"ghostify": json.dumps(note)})
    loaded = load(path, factory=factory)
    assert loaded.b.weight is loaded.a.weight
    assert torch.equal(loaded.a.weight, model.a.weight)


def test_what_its_origin_shares_cannot_be_apart(tmp_path: Path) -> None:
    model = create_model("test_network_file:Sharing")
    model.b = nn.Conv2d(16, 16, 3)
    with pytest.raises(InputError, match="it has 'a' and 'b' apart, which are one module of its origin"):
        save(model, tmp_path / "a.safetensors")


def test_parameters_that_are_views_of_one_tensor_come_back(tmp_path: Path) -> None:
    path, model, both = tmp_path / "a.safetensors", create_model("resnet20"), torch.randn(16, 16, 3, 3)
    block = model.layer1[0]
    block.conv1.weight, block.conv2.weight = nn.Parameter(both), nn.Parameter(both)
    save(model, path)
    assert same_outputs(model, load(path), 32)


def test_each_tensor_comes_back_in_its_own_precision(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(create_model("resnet20").bfloat16(), path)
    assert load(path).conv1.weight.dtype == torch.bfloat16
    model = create_model("resnet20")
    model.bn1.bfloat16()
    save(model, path)
    loaded = load(path)
    assert [tensor.dtype for tensor in loaded.state_dict().values()] == [t.dtype for t in model.state_dict().values()]
    assert torch.equal(loaded.conv1.weight, model.conv1.weight)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_flags_of_a_guessed_origin_are_the_networks_or_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = filled(torchvision.models.googlenet(transform_input=True, init_weights=False))
    save(model, path)
    assert load(path).transform_input
    assert same_outputs(model, load(path), 64)
    model.aux_logits = False
    with pytest.raises(InputError, match="aux_logits is False, not its origin's True"):
        save(model, path)


def test_extra_notes_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(create_model("resnet20"), path, extra={"mean": [0.5, 0.4, 0.3]})
    assert read_extra(path) == {"mean": [0.5, 0.4, 0.3]}


class Acting(nn.Module):
    """A user's own, with a number that may be left out and a function."""

    def __init__(self, scale: float | None = None, act: Any = torch.relu) -> None:
        super().__init__()
        self.scale, self.act, self.square = scale, act, lambda x: x * x
        self.head = nn.Linear(4, 2)


@pytest.mark.parametrize("options", [{"scale": 2.0}, {"act": torch.tanh}, {"act": nn.functional.gelu}])
def test_a_network_built_with_other_arguments_than_its_origin_is_refused(options: Any, tmp_path: Path) -> None:
    save(Acting(), tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="not its origin's"):
        save(Acting(**options), tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_a_network_of_unknown_origin_is_refused_and_nothing_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="build the network with create_model"):
        save(nn.Sequential(nn.Linear(2, 2)), path)
    changed = create_model("resnet20")
    changed.layer1 = nn.Identity()
    with pytest.raises(InputError, match="how this ResNetCifar was built is not known"):
        save(changed, path)
    changed = create_model("test_network_file:Scaled")
    changed.gain = nn.Parameter(torch.ones(3))
    with pytest.raises(InputError, match="not its origin's"):
        save(changed, path)
    assert list(tmp_path.iterdir()) == []


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain, self.conv = nn.Parameter(torch.ones(1)), nn.Conv2d(3, 8, 1)


CONV = {"kind": "Conv2d", "in_channels": 3, "out_channels": 16, "kernel_size": [3, 3], "padding": [1, 1], "bias": False}


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


NARROWED: dict[str, Any] = {"kind": "narrowed", "sizes": {}, "numbers": {}}


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
        ({"origin": {"name": "resnet20", "options": {"num_classes": -1}}}, "cannot be built with"),
        ({"origin": {"name": "torchvision:resnet18", "options": {"weights": ""}}}, "weights is not taken"),
        ({"replaced": {"conv1": 3}}, "cannot be built again"),
        ({"replaced": {"conv1": CONV | {"device": "meta"}}}, "cannot be built again: .*describes no such layer"),
        ({"replaced": {"conv1": CONV | {"dtype": None}}}, "cannot be built again: .*describes no such layer"),
        # PyTorch makes these convolutions, and computes their shapes, but cannot run them.
        ({"replaced": {"conv1": CONV | {"dilation": [1, 1, 1]}}}, "cannot be built again: .*describes no such layer"),
        ({"replaced": {"conv1": CONV | {"padding": [1, 1.5]}}}, "cannot be built again: .*describes no such layer"),
        ({"replaced": {"conv1": CONV | {"stride": [0, 1]}}}, "cannot be built again: .*describes no such layer"),
        ({"replaced": {"conv1": CONV | {"padding": [1, 1, 1]}}}, "cannot be built again: .*describes no such layer"),
        ({"replaced": {"conv1": {**CONV, "kind": "GhostConv2d", "stride": [1]}}}, "describes no such layer"),
        ({"replaced": {"conv1": CONV | {"out_channels": [10**30]}}}, "cannot be built again: [^\\n]{,400}$"),
        ({"replaced": {"bn1": {"kind": "narrowed"}}}, "cannot be built again"),
        ({"replaced": {"bn1": NARROWED | {"sizes": {"weight": [17]}}}}, "cannot be narrowed"),
        ({"replaced": {"bn1": NARROWED | {"sizes": {"weight": [4, 4]}}}}, "cannot be narrowed"),
        ({"replaced": {"bn1": NARROWED | {"sizes": {"weight": ["a"]}}}}, "cannot be built again"),
        ({"replaced": {"bn1": NARROWED | {"numbers": {"training": 1}}}}, "training cannot become 1"),
        ({"replaced": {"bn1": NARROWED | {"numbers": {"num_features": 99}}}}, "num_features cannot become 99"),
        ({"replaced": {"bn1": NARROWED | {"numbers": {"num_features": 9}}}}, "num_features cannot become 9"),
        ({"replaced": {"bn1": NARROWED | {"more": 1}}}, "describes no such layer"),
        ({"replaced": {"bn1": NARROWED | {"sizes": {"weight": [True]}}}}, "cannot be narrowed"),
        ({"replaced": {"bn1": NARROWED | {"sizes": {"weight": [4]}}}}, "does not go with resnet20"),
        ({"tied": {"conv1.weight": "x"}}, "'conv1.weight' does not go with"),
        ({"tied": {"conv1.weight": ["x"]}}, "'conv1.weight' does not go with"),
        ({"tied": []}, "does not say how"),
        ({"extra": [1]}, "does not say how"),
        ({"unlisted": {"a": 1}}, "does not say how"),
        ({"unlisted": [["a"]]}, "does not say how"),
    ],
)
def test_a_file_that_asks_for_too_much_or_does_not_fit_is_refused(
    saved: Path, changes: dict[str, Any], message: str
) -> None:
    rewritten(saved, **changes)
    with pytest.raises(InputError, match=message):
        load(saved)


def test_a_header_that_repeats_a_long_text_is_refused_in_a_short_line(saved: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": "ü" * 5000}}).encode()
    saved.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match=r"is no network written by save, or is cut short: .*…$") as refused:
        load(saved)
    assert len(str(refused.value)) < 500


def shaped(size: tuple[int, int] = (3, 3), widths: list[int] | None = None) -> nn.Module:
    """Takes a tuple and a list, and no other."""
    assert isinstance(size, tuple)
    assert isinstance(widths, list)
    return nn.Conv2d(3, widths[0], size)


def test_options_that_are_too_deep_are_refused(saved: Path) -> None:
    deep: list[Any] = []
    for _ in range(600):
        deep = [deep]
    rewritten(saved, origin={"name": "resnet20", "options": {"deep": deep}})
    with pytest.raises(InputError, match=r"does not say how|takes no option"):
        load(saved)


def test_options_come_back_as_they_were(saved: Path) -> None:
    model = create_model("test_network_file:shaped?size=3,5", widths=[16, 2])
    save(model, saved)
    origin = open_network_file(saved).blueprint().origin
    assert origin.options == {"size": (3, 5), "widths": [16, 2]}
    assert load(saved, factory="test_network_file:shaped").kernel_size == (3, 5)


def test_a_builder_that_this_process_has_run_need_not_be_named_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    monkeypatch.setattr(registry, "_run_by_user", set())
    save(Sharing(), path)  # the user's own call, and its class is run to find out how it is built
    assert type(load(path)).__name__ == "Sharing"
    monkeypatch.setattr(registry, "_run_by_user", set())
    with pytest.raises(InputError, match=r"word: name it as the factory, .*test_network_file:Sharing"):
        load(path)


def test_a_file_of_pytorchs_in_place_of_a_network_is_known(tmp_path: Path) -> None:
    for zipped in (True, False):
        path = tmp_path / "network.pt"
        torch.save(create_model("resnet20"), path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(InputError, match=r"is a file of PyTorch's.*and give the file as weights$"):
            open_network(str(path))


@pytest.mark.parametrize("note", ["{", "[" * 100_000, f'{{"format": {"1" * 5_000}}}'], ids=["cut", "deep", "large"])
def test_a_note_that_cannot_be_read_is_refused(saved: Path, note: str) -> None:
    save_file(load_file(saved), saved, metadata={"ghostify": note})
    with pytest.raises(InputError, match="its note on how to build the network cannot be read"):
        load(saved)


def test_truncated_foreign_and_absent_files_are_refused(saved: Path, tmp_path: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(InputError, match="cut short"):
        load(saved)
    saved.write_bytes(b"no network")
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


def test_a_note_is_read_without_a_tensor(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = CountedReads(monkeypatch)
    assert read_extra(saved) == {}
    assert (reads.opened, reads.tensors) == ([str(saved)], [])


def test_a_file_is_opened_once_and_each_of_its_tensors_read_once(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, reads = load(saved), CountedReads(monkeypatch)
    file = open_network_file(saved)
    saved.unlink()
    network = open_network(file)
    assert reads.opened == [str(saved)]
    assert sorted(reads.tensors) == sorted(network.state_dict())
    assert same_outputs(network, before, 32)


def test_modules_that_ask_for_the_version_of_a_state_dict_come_back(tmp_path: Path) -> None:
    model = create_model("torchvision:mnasnet0_5").eval()
    save(model, tmp_path / "network.safetensors")
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(load(tmp_path / "network.safetensors")(x), model(x))
