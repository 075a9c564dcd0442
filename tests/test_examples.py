"""The scripts and the notebook of examples/ run, and do what they say."""

import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import onnxruntime
import pytest
import small_net
import torch
from made_boxes import make_split
from nbclient import NotebookClient
from PIL import Image
from torch.utils.data import DataLoader, Subset

from ghostify import convert, create_model, export, load, save
from ghostify.data.augment import normalise
from ghostify.data.sources import plain_crop
from ghostify.jobs import tune

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = ["own_network.py", "training_loop.py", "detector.py", "int8.py", "device.py"]


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the digits, from which the network still learns something."""
    of_all = small_net.digits

    def some(batch_size: int = 32) -> tuple[DataLoader[Any], ...]:
        parts = zip(of_all(), (320, 160), strict=True)
        return tuple(DataLoader(Subset(loader.dataset, range(count)), batch_size) for loader, count in parts)

    monkeypatch.setattr(small_net, "digits", some)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The scripts write where they are called."""
    monkeypatch.chdir(tmp_path)


def run(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: str) -> dict[str, Any]:
    """Run a script as a user does; its names."""
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    return runpy.run_path(str(EXAMPLES / script), run_name="__main__")


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_is_short(script: str) -> None:
    assert len((EXAMPLES / script).read_text().splitlines()) <= 60


def test_every_example_is_here_and_in_the_list() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SCRIPTS, "small_net.py"}
    page = (EXAMPLES / "README.md").read_text()
    assert all(f"]({name})" in page for name in (*SCRIPTS, "small_net.py", "steps.ipynb"))


@pytest.mark.usefixtures("few_digits", "steady", "short_blocks")
def test_a_network_of_ones_own_becomes_a_faster_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tune, "LEAST_STEPS", 2)
    found = run(monkeypatch, "own_network.py", "--epochs", "1")
    said = capsys.readouterr().out
    assert "planned 1.5×" in said
    right = (found["scores"].argmax(1) == found["labels"].numpy()).sum()
    assert f"faster/network.onnx: right for {right} of 32 images" in said
    assert onnxruntime.InferenceSession(tmp_path / "faster" / "network.onnx").get_inputs()[0].shape[1:] == [1, 32, 32]


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("loop", ["plain", "lightning", "transformers"])
def test_a_ghost_learns_in_a_loop_of_ones_own(loop: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if loop != "plain" and find_spec(loop) is None:
        pytest.skip(f"{loop} is not installed, and is no package of this project's")
    found = run(monkeypatch, "training_loop.py", "--loop", loop)
    original, new = found["original"], convert(found["original"], ratio=2).model.eval()
    learnt = load(tmp_path / "ghost.safetensors")
    images, _ = next(iter(found["test"]))
    with torch.no_grad():
        before, after = ((network(images) - original(images)).square().mean() for network in (new, learnt))
    assert after < before / 2


@pytest.mark.usefixtures("steady", "short_blocks")
def test_a_detector_is_made_as_fast_as_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    save(create_model("tiny_detector:retinanet"), tmp_path / "mine.safetensors")
    for split, images in (("train2017", 32), ("val2017", 5)):
        make_split(tmp_path / "boxes", split, images, seed=0)
    mine = ("--data", "coco:boxes", "--detector", "mine.safetensors")
    run(monkeypatch, "detector.py", *mine, "--speedup", "1.2", "--epochs", "1")
    said = capsys.readouterr().out
    assert "AP50" in said
    assert (tmp_path / "detector" / "faster.xml").exists()
    assert len(list((tmp_path / "detector" / "found").glob("*.png"))) == 5


@pytest.mark.usefixtures("few_digits", "short_blocks")
@pytest.mark.parametrize("arguments", [["--format", "onnx"], ["--max-accuracy-drop", "20"]])
def test_a_file_in_eight_bits_says_what_it_costs(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(monkeypatch, "int8.py", *arguments)
    report, said = found["report"], capsys.readouterr().out
    assert report.int8.layers > len(report.int8.in_fp32)
    assert f"{report.path}: right for {100 * report.int8.top1:.1f} %" in said
    assert "layers left in float32: none" in said


def test_a_file_runs_elsewhere_without_pytorch_on_images_prepared_as_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    note = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "classes": [f"class {index}" for index in range(10)]}
    for name in ("resnet20", "ghost_resnet20"):
        export(create_model(name).eval(), tmp_path / f"{name}.onnx", torch.randn(1, 3, 32, 24), preprocessing=note)
    (tmp_path / "photographs").mkdir()
    sizes = [(61, 47), (47, 61), (24, 32), (200, 40)]
    for index, size in enumerate(sizes):
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{index}.png")
    arguments = ["resnet20.onnx", "ghost_resnet20.onnx", "photographs", "--calls", "3"]
    found = run(monkeypatch, "device.py", *arguments)
    said = capsys.readouterr().out
    assert "3.png: class" in said
    assert "times as fast here" in said
    for index, given in enumerate(found["inputs"]):
        pixels = plain_crop(32, 24)(Image.open(tmp_path / "photographs" / f"{index}.png"))
        expected = normalise(pixels[None], note["mean"], note["std"])  # type: ignore[arg-type]  # numbers
        np.testing.assert_allclose(given["images"], expected, atol=1e-5)
    alone = f"import runpy, sys; runpy.run_path({str(EXAMPLES / 'device.py')!r}); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", alone, *arguments], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False"


def test_the_notebook_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a process of its own, as Jupyter does."""
    known = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(EXAMPLES), known))))
    notebook = nbformat.read(EXAMPLES / "steps.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without outputs: they are of one machine"
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("right in ONNX Runtime" in output.get("text", "") for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
