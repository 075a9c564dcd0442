"""A network is scored by one call, on images prepared as it wants them."""

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny_detector import retinanet
from tiny_training import RECIPE, trained
from torch import nn

import ghostify
from ghostify import InputError, create_model, evaluate, export, load_data, save
from ghostify.cli import main
from ghostify.jobs.evaluate import evaluate as score_network
from ghostify.network_file import known_extra


@pytest.fixture
def network(colours: Path) -> nn.Module:
    return trained(colours, dataclasses.replace(RECIPE, epochs=2))


def test_a_reference_and_what_it_opens_give_the_same_score(network: nn.Module, colours: Path) -> None:
    data = load_data(f"npz:{colours}")
    network.train()
    score = evaluate(network, f"npz:{colours}", device="cpu")
    assert score == evaluate(network, data, device="cpu") == score_network(network, data.test, data)
    assert score.images == 30
    assert network.training  # given back as it was


def test_a_networks_own_normalisation_goes_with_it_through_a_file(
    network: nn.Module, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the verb reads it in the file; a ghost keeps it."""
    file, reference = tmp_path / "network.safetensors", f"npz:{colours}"
    other = {"mean": (0.9, 0.1, 0.2), "std": (0.1, 0.4, 0.5)}
    save(network, file, extra=other)
    loaded = ghostify.load(file)
    assert known_extra(loaded) == {name: list(values) for name, values in other.items()}
    score = evaluate(loaded, reference, device="cpu")
    assert score == evaluate(network, reference, device="cpu", **other)
    assert score != evaluate(loaded, reference, device="cpu", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    arguments = ["evaluate", str(file), "--factory", "tiny:Tiny", "--data", reference, "--device", "cpu", "--json"]
    assert main(arguments) == 0
    assert f'"top1": {score.top1}' in capsys.readouterr().out
    ghost = ghostify.convert(loaded, ratio=2).model
    assert known_extra(ghost) == known_extra(loaded)


def test_an_exported_file_is_scored_in_its_engine(network: nn.Module, colours: Path, tmp_path: Path) -> None:
    data, path = load_data(f"npz:{colours}"), tmp_path / "network.onnx"
    export(network.eval(), path, torch.zeros(2, 3, 12, 12), preprocessing=data.preprocessing)
    assert evaluate(path, f"npz:{colours}", engine="onnxruntime") == evaluate(network, data, device="cpu")


def test_what_does_not_go_together_is_refused(network: nn.Module, colours: Path) -> None:
    data = load_data(f"npz:{colours}")
    with pytest.raises(InputError, match=r"^Tiny runs in PyTorch: engine is for exported files$"):
        evaluate(network, data, engine="openvino")
    with pytest.raises(InputError, match="RetinaNet finds objects: use ghostify"):
        evaluate(retinanet(), data)
    with pytest.raises(InputError, match=r"^device is 'tpu': expected auto, cpu or cuda$"):
        evaluate(network, data, device="tpu")
    with pytest.raises(InputError, match=r"^image_size is 24, but .* is open, at 12: give it to load_data$"):
        evaluate(network, data, image_size=24)
    with pytest.raises(InputError, match="Sequential does not say how large its images are: expected image_size"):
        evaluate(nn.Sequential(nn.Flatten()), "imagefolder:nowhere")
    with pytest.raises(InputError, match=r"^std is \(0, 1, 1\): expected three numbers above 0$"):
        evaluate(network, f"npz:{colours}", std=(0, 1, 1))
    with pytest.raises(InputError, match=r"^precision is 'fp8': expected fp32 or bf16$"):
        evaluate(network, data, precision="fp8")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(InputError, match=r"^batch_size is 0: expected at least 1$"):
        evaluate(network, data, batch_size=0)
    with pytest.raises(InputError, match="expected an exported file"):
        evaluate("network.safetensors", data)
    with pytest.raises(InputError, match="has 10 classes"):
        evaluate(create_model("tiny:Tiny"), "digits")
