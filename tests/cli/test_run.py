"""`ghostify run` as a user types it."""

import json
from pathlib import Path

import pytest
import torch
from command_line import printed
from PIL import Image
from tiny import Tiny

from ghostify.cli import main

pytestmark = pytest.mark.usefixtures("quick_runs")


USUAL = ["--target-speedup", "1.1", "--tune", "1", "--images", "32", "--effort", "fast", "--engine", "onnxruntime"]


def test_it_trains_a_network_without_weights_and_ends_with_how_to_load_the_file(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["run", "--model", "tiny:Tiny", "--data", f"npz:{colours}", "--epochs", "12", "--batch-size", "16"]
    assert main([*words, *USUAL, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "tiny:Tiny has no --weights" in captured.err
    assert "about" in captured.err
    assert "planned 1.1×: top-1" in " ".join(captured.out.split())
    assert f'network = onnxruntime.InferenceSession("{out / "network.onnx"}")' in captured.out
    assert f'network = openvino.compile_model("{out / "network.onnx"}", "CPU")' in captured.out
    about = json.loads((out / "network.json").read_text())
    assert about["preprocessing"]["classes"] == ["0", "1", "2"]
    assert main([*words, *USUAL, "--json", "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "tiny:Tiny"


def test_photographs_without_classes_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, photographs = tmp_path / "weights.pt", tmp_path / "photographs"
    torch.save(Tiny().state_dict(), weights)
    photographs.mkdir()
    for number in range(80):
        pixels = torch.randint(0, 256, (14, 14, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(photographs / f"{number}.png")
    words = ["run", "--model", "tiny:Tiny", "--weights", str(weights), "--calibration", str(photographs)]
    words += ["--image-size", "12", "--workers", "0", *USUAL, "--json", "--out", str(tmp_path / "out")]
    found = printed(capsys, *words)
    assert not found["labelled"]
    assert found["networks"][0]["agreement"] == 1
    assert found["networks"][1]["macs"] < found["networks"][0]["macs"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model", "tiny:Tiny", "--target-speedup", "2"], "run needs images to calibrate on: name them with --data"),
        (
            ["--model", "tiny:Tiny", "--data", "digits", "--calibration", ".", "--target-speedup", "2"],
            "expected one of",
        ),
        (["--target-speedup", "2", "--max-accuracy-drop", "1"], "expected one of --target-speedup"),
        (["--sweep", "--max-accuracy-drop", "1"], "expected one of --target-speedup"),
        (["--target-speedup", "0.5"], "'--target-speedup'"),
        (["--target-speedup", "2", "--tune", "-1"], "--tune is '-1'"),
        (["--target-speedup", "2", "--engine", "eager"], "'--engine'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_go_together_is_refused_in_one_line(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *words, "--out", str(tmp_path / "out")]) == 2
    [said] = capsys.readouterr().err.splitlines()
    assert line in said
    assert not (tmp_path / "out").exists()
