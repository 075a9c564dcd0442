"""An exported file is a module that gives what the file gives, and is refused where layers are needed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify import FileNetwork, InputError, compare, export


class Two(nn.Module):
    """Gives two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.conv(x)
        return {"maps": x, "means": x.mean((2, 3))}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


X = torch.randn(4, 3, 9, 7)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    found = {"onnx": folder / "a.onnx", "openvino": folder / "b.xml"}
    for format, path in found.items():
        export(network(), path, X[:1], format=format, preprocessing={"mean": [0.5] * 3})  # type: ignore[arg-type]  # any string
    return found


@pytest.mark.parametrize(
    ("format", "engine"), [("onnx", None), ("onnx", "openvino"), ("openvino", None), ("openvino", "openvino")]
)
def test_outputs_are_the_networks_and_the_size_is_known(
    format: str, engine: str | None, files: dict[str, Path]
) -> None:
    file = FileNetwork(files[format], engine=engine)
    with torch.no_grad():
        torch.testing.assert_close(file(X), network()(X), rtol=1e-4, atol=1e-5)
    assert file.input_shape == (3, 9, 7)
    assert file.about["preprocessing"] == {"mean": [0.5] * 3}
    with pytest.raises(InputError, match=r"takes inputs \['batch', 3, 9, 7\], not \[4, 3, 7, 9\]"):
        file(X.mT)


def test_a_file_without_a_note_and_with_two_outputs_is_a_network_too(tmp_path: Path) -> None:
    two = Two().eval()
    export(two, tmp_path / "two.onnx", X[:1])
    (tmp_path / "two.json").unlink()
    file = FileNetwork(tmp_path / "two.onnx")
    assert (file.about, file.input_shape) == ({}, (3, 9, 7))
    with torch.no_grad():
        maps, means = file(X)
        torch.testing.assert_close(means, two(X)["means"], rtol=1e-4, atol=1e-5)
    assert maps.shape == (4, 4, 7, 5)


@pytest.mark.parametrize("as_text", [False, True])
def test_a_file_is_compared_with_the_network_that_it_was_made_of(files: dict[str, Path], as_text: bool) -> None:
    file: Any = str(files["openvino"]) if as_text else FileNetwork(files["openvino"])
    found = compare(network(), file, X[:1], engine="openvino", precision=("int8", "fp32"), blocks=6, block_ms=1)
    assert (found.engine, found.precisions) == ("openvino", ("int8", "fp32"))
    assert found.b_ms > 0
    for engine in ("eager", "onnxruntime"):
        with pytest.raises(InputError, match=r"b\.xml cannot run in \w+: expected engine to be openvino"):
            compare(network(), file, X[:1], engine=engine)


CALLS: dict[str, Callable[[nn.Module, Path], object]] = {
    "count": lambda file, _: ghostify.count(file, (3, 9, 7)),
    "convert": lambda file, _: ghostify.convert(file, calibration=[torch.randn(32, 3, 9, 7)]),
    "plan": lambda file, _: ghostify.plan(file, example=X, calibration=[X], target_macs=0.5),
    "deploy": lambda file, _: ghostify.deploy(file, X),
    "export": lambda file, folder: ghostify.export(file, folder / "c.onnx", X),
    "save": lambda file, folder: ghostify.save(file, folder / "c.safetensors"),
    "explain": lambda file, _: ghostify.explain(file, file, X),
    "choose_forms": lambda file, _: ghostify.choose_forms(file, X),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_needs_layers_refuses_a_file(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.onnx is an exported file, .*: expected the network that it was made of"):
        CALLS[name](FileNetwork(files["onnx"]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_no_file_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    for path, why in (
        (tmp_path / "absent.onnx", "there is no file"),
        (tmp_path / "network.safetensors", "which ends in .onnx or .xml"),
    ):
        with pytest.raises(InputError, match=why):
            FileNetwork(path)
    with pytest.raises(InputError, match=r"b\.xml cannot run in onnxruntime"):
        FileNetwork(files["openvino"], engine="onnxruntime")
    with pytest.raises(InputError, match="expected one of onnxruntime, openvino"):
        FileNetwork(files["onnx"], engine="eager")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(InputError, match="onnxruntime cannot run the network"):
        FileNetwork(broken)(X)
    for note in ("[]", "{", json.dumps({"preprocessing": 1})):
        broken.with_suffix(".json").write_text(note)
        with pytest.raises(InputError, match=r"is not what export wrote beside broken\.onnx"):
            FileNetwork(broken)
