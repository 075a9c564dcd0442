"""Photographs without classes, and plans of another network, at the command line."""

from pathlib import Path

import numpy as np
import pytest
from command_line import printed
from PIL import Image

from ghostify import count, create_model, load, save
from ghostify.changes import LayerPlan, Prune
from ghostify.cli import main
from ghostify.network_file import read_extra
from ghostify.planning.made_for import weight_shapes
from ghostify.planning.plan_file import Plan, write_plan

CPU = ["--device", "cpu", "--workers", "0"]


@pytest.fixture
def photographs(tmp_path: Path) -> str:
    """Forty photographs, in two folders that are no classes."""
    rng = np.random.default_rng(0)
    for number in range(40):
        place = tmp_path / "photos" / ("spring" if number % 3 else "autumn")
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
        coarse.resize((60, 40)).save(place / f"{number}.jpg")
    return str(tmp_path / "photos")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on standard error, behind those of the progress."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = [line for line in captured.err.splitlines() if not line.startswith("photographs: ")]
    return line


def test_a_network_is_planned_and_converted_on_photographs(
    capsys: pytest.CaptureFixture[str], photographs: str, tmp_path: Path
) -> None:
    grey, file = [0.5, 0.5, 0.5], str(tmp_path / "network.safetensors")
    save(create_model("tiny:Tiny"), file, extra={"mean": grey, "image_size": 16, "classes": ["a", "b", "c"]})
    network = [file, "--factory", "tiny:Tiny", "--calibration", photographs, *CPU]
    planned = printed(capsys, "plan", *network, "--target-macs", "0.7", "--out", str(tmp_path / "p"), "--json")
    assert planned["macs"] <= 0.7
    follow = ["--plan", str(tmp_path / "p" / "plan.json"), "--effort", "fast", "--out", str(tmp_path / "g"), "--json"]
    kept = printed(capsys, "convert", *network, *follow)
    assert kept["macs_after"] / kept["macs_before"] == pytest.approx(planned["macs"])
    assert kept["macs_before"] == count(create_model("tiny:Tiny"), (3, 16, 16)).macs
    extra = read_extra(tmp_path / "g" / "ghost.safetensors")
    assert (extra["mean"], extra["image_size"], extra["classes"]) == (grey, 16, ["a", "b", "c"])
    assert len(extra["std"]) == 3


def test_a_plan_for_another_network_is_refused_before_images_are_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    layers = {"layer1.0.conv1": LayerPlan(Prune(8, 8))}
    made = Plan(layers, ("macs", 0.9), 0.9, 0.0, 0.1, network=weight_shapes(create_model("resnet20")))
    write_plan(made, tmp_path / "plan.json")
    follow = ["--plan", str(tmp_path / "plan.json"), "--data", "npz:absent.npz", "--out", str(tmp_path / "g"), *CPU]
    line = refused(capsys, "convert", "resnet56", *follow)
    assert "the plan is for another network: 36 of 55 convolutions do not match: layer1.3.conv1 is not in" in line
    assert "absent.npz is not there" in refused(capsys, "convert", "resnet20", *follow)


def test_the_size_of_photographs_is_the_users(
    capsys: pytest.CaptureFixture[str], photographs: str, tmp_path: Path
) -> None:
    convert = ["convert", "tiny:Tiny", "--calibration", photographs, *CPU, "--effort", "fast", "--cheap", "pointwise"]
    square = printed(capsys, *convert, "--image-size", "16", "--out", str(tmp_path / "a"), "--json")
    wide = printed(capsys, *convert, "--input-shape", "3,16,32", "--out", str(tmp_path / "b"), "--json")
    convolutions = [sum(layer["macs_before"] for layer in found["layers"]) for found in (square, wide)]
    assert convolutions[1] == 2 * convolutions[0]
    assert read_extra(tmp_path / "a" / "ghost.safetensors")["image_size"] == 16
    assert "image_size" not in read_extra(tmp_path / "b" / "ghost.safetensors")


def test_a_detector_is_converted_on_photographs(
    capsys: pytest.CaptureFixture[str], photographs: str, tmp_path: Path
) -> None:
    network = ["tiny_detector:retinanet", "--calibration", photographs, *CPU]
    found = printed(capsys, "convert", *network, "--effort", "fast", "--out", str(tmp_path / "g"), "--json")
    assert found["replaced"] > 0
    assert found["layers"][0]["block_error"] is not None
    assert load(tmp_path / "g" / "ghost.safetensors", factory="tiny_detector:retinanet") is not None
    plan = ["--target-macs", "0.8", "--images", "32", "--out", str(tmp_path / "p")]
    assert printed(capsys, "plan", *network, *plan, "--json")["macs"] <= 0.8
    by_plan = ["--plan", str(tmp_path / "p" / "plan.json"), "--effort", "fast", "--out", str(tmp_path / "g2")]
    assert printed(capsys, "convert", *network, *by_plan, "--json")["replaced"] > 0
    assert "leave out --part" in refused(capsys, "convert", *network, *by_plan, "--part", "head")


def test_files_that_were_passed_over_are_counted(
    capsys: pytest.CaptureFixture[str], photographs: str, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (Path(photographs) / f"{name}.jpg").write_bytes(b"")
    network = ["resnet20", "--calibration", photographs, *CPU, "--cheap", "pointwise", "--effort", "fast"]
    assert main(["convert", *network, "--out", str(tmp_path / "g")]) == 0
    assert f"passed over of {photographs}: 2 that cannot be decoded, such as" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "resnet20", "--data", "digits", "--calibration", "PHOTOS"], "expected one of them"),
        (
            ["plan", "resnet20", "--target-macs", "0.7"],
            "a plan needs images to calibrate on: name them with --data, or",
        ),
        (["plan", "resnet20", "--target-macs", "0.7", "--data", "digits", "--calibration", "PHOTOS"], "one of them"),
        (["plan", "resnet20", "--max-accuracy-drop", "1", "--calibration", "PHOTOS"], "needs images with classes"),
        (["convert", "resnet20", "--plan", "PLAN"], "--plan needs images to calibrate on: name them with --data"),
        (["convert", "resnet20", "--finetune", "1", "--calibration", "PHOTOS"], "images with classes to learn from"),
        (["convert", "absent.safetensors", "--calibration", "nowhere"], "nowhere is not there: expected a folder"),
        (["convert", "resnet20", "--calibration", "PHOTOS/spring/1.jpg"], "1.jpg is no folder: expected a folder"),
        (["plan", "resnet20", "--target-macs", "0.7", "--calibration", "PHOTOS/autumn"], "autumn holds 14 photographs"),
        (["convert", "resnet20", "--calibration", "PHOTOS", "--images", "0"], "0 images: expected at least 32"),
        (["convert", "resnet20", "--calibration", "PHOTOS", "--input-shape", "1,32,32"], "photographs are [3, height"),
        (["convert", "torchvision:vgg11", "--calibration", "PHOTOS", "--image-size", "8"], "cannot take the images"),
    ],
)
def test_images_that_do_not_serve_are_one_line_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], photographs: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    made, out = tmp_path / "plan.json", tmp_path / "out"
    write_plan(Plan({"layer1.0.conv1": LayerPlan(Prune(8, 8))}, ("macs", 0.9), 0.9, 0.0, 0.1), made)
    words = [word.replace("PHOTOS", photographs).replace("PLAN", str(made)) for word in arguments]
    assert message in refused(capsys, *words, *CPU, "--out", str(out))
    assert not out.exists()
