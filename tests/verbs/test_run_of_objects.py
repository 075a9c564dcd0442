"""The whole road of networks that find objects, and of those that name the class of each pixel."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_boxes import make_boxes
from made_masks import make_masks
from tiny_segmenter import WithAux
from torch import nn

from ghostify import FileNetwork, InputError, Recipe, create_model, detect, load, run, save, segment
from ghostify.cli import main
from ghostify.data.coco import load_coco
from ghostify.data.masks import load_masks
from ghostify.jobs.boxes_of_run import BoxAnswers
from ghostify.jobs.coco_score import ap_by_draws, score_boxes

pytestmark = pytest.mark.usefixtures("quick_runs")

SETTINGS: dict[str, Any] = {"target_speedup": 1.3, "tune": 2, "images": 32, "effort": "fast", "engine": "onnxruntime"}
SETTINGS |= {"workers": 0}
SIDE = 32


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_masks(tmp_path_factory.mktemp("masks"), train=40)[0]


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_boxes(tmp_path_factory.mktemp("boxes"), train=40)


@pytest.fixture(scope="module")
def segmenter(masks: str) -> nn.Module:
    torch.manual_seed(0)
    model = create_model("tiny_segmenter:UNet")
    recipe = Recipe(epochs=8, batch_size=4, optimizer="adamw", lr=5e-3, precision="fp32")
    segment.train(model, masks, recipe, image_size=SIDE, workers=0, device="cpu")
    return model.eval()


@pytest.fixture(scope="module")
def detector(boxes: str) -> nn.Module:
    torch.manual_seed(0)
    model = create_model("tiny_detector:retinanet")
    recipe = Recipe(epochs=12, batch_size=4, optimizer="adamw", lr=5e-3, precision="fp32")
    detect.train(model, boxes, recipe, workers=0, device="cpu")
    return model.eval()


def test_a_segmenter_is_scored_by_its_file_before_and_after(segmenter: nn.Module, masks: str, tmp_path: Path) -> None:
    found = run(segmenter, masks, out=tmp_path, image_size=SIDE, **SETTINGS)
    original, mine = found.table
    assert found.metrics["score"] == "mean IoU"
    data = load_masks(masks, image_size=SIDE)
    assert original.score == pytest.approx(segment.evaluate(segmenter, data, workers=0).mean_iou, abs=0.002)
    by_file = segment.evaluate(FileNetwork(found.files[0]), data, workers=0)
    assert mine.score == pytest.approx(by_file.mean_iou)
    assert original.score_low <= original.score <= original.score_high
    assert original.score > 0.5, "it has learnt"
    assert mine.macs < original.macs
    assert 0.7 < mine.agreement <= 1
    assert "mean IoU" in found.findings[0]
    assert found.metrics["tuning"]["planned 1.3×"]["before"]["score"] > 0.4
    page = found.report.read_text()
    assert "mean IoU, %" in page
    assert "Mean IoU on test images" in page


def test_a_second_output_is_for_training_and_the_first_one_judges(masks: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = run(WithAux().eval(), masks, out=tmp_path, image_size=SIDE, **{**SETTINGS, "tune": 0})
    assert found.table[0].agreement == 1
    assert found.table[1].macs < found.table[0].macs


def test_a_detector_is_scored_by_its_file_before_and_after(detector: nn.Module, boxes: str, tmp_path: Path) -> None:
    found = run(detector, boxes, out=tmp_path, **SETTINGS)
    original, mine = found.table
    assert found.metrics["score"] == "AP"
    assert original.score == pytest.approx(detect.evaluate(detector, boxes, workers=0).ap, abs=0.01)
    by_file = detect.evaluate(found.model, boxes, file=found.files[0], workers=0)
    assert mine.score == pytest.approx(by_file.ap, abs=1e-6)
    assert original.score > 0.2, "it has learnt"
    assert original.score_low <= original.score <= original.score_high
    assert original.agreement == 1
    assert mine.macs < original.macs
    assert found.findings[0].startswith("planned 1.3×: AP ")
    about = json.loads((tmp_path / "network.json").read_text())["preprocessing"]
    assert (about["classes"], about["max_size"]) == (["red", "blue"], 96)
    again = load(tmp_path / "network.safetensors")
    assert detect.evaluate(again, boxes, workers=0).ap == pytest.approx(mine.score, abs=0.02)


@pytest.mark.parametrize("family", ["fasterrcnn", "fcos", "ssd"])
def test_detectors_of_other_families_go_the_same_way(family: str, boxes: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model(f"tiny_detector:{family}", norm=False).eval()
    found = run(model, boxes, out=tmp_path, **{**SETTINGS, "tune": 1})
    original, mine = found.table
    assert mine.macs < original.macs
    assert found.metrics["tuning"]["planned 1.3×"]["before"]["error"] > 0
    by_file = detect.evaluate(found.model, boxes, file=found.files[0], workers=0)
    assert mine.score == pytest.approx(by_file.ap, abs=1e-6)


def test_on_the_command_line_the_network_says_which_images_it_needs(
    detector: nn.Module, segmenter: nn.Module, boxes: str, masks: str, tmp_path: Path
) -> None:
    usual = ["--target-speedup", "1.3", "--tune", "0", "--images", "32", "--effort", "fast", "--workers", "0"]
    usual += ["--engine", "onnxruntime"]
    for name, model, data, more in (("a", detector, boxes, []), ("b", segmenter, masks, ["--image-size", str(SIDE)])):
        save(model, tmp_path / f"{name}.safetensors")
        words = ["run", "--model", str(tmp_path / f"{name}.safetensors"), "--data", data, *more, *usual]
        words += ["--factory", "tiny_detector:retinanet" if name == "a" else "tiny_segmenter:UNet"]
        assert main([*words, "--out", str(tmp_path / name)]) == 0
        rows = json.loads((tmp_path / name / "metrics.json").read_text())["networks"]
        assert [one["name"] for one in rows] == ["original", "planned 1.3×"]
        assert rows[0]["score"] > 0.2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model", "tiny_detector:retinanet", "--data", "BOXES"], "tiny_detector:retinanet is not trained: name its"),
        (["--model", "tiny_detector:retinanet", "--data", "MASKS"], "expected coco:DIR"),
        (
            ["--model", "tiny_detector:retinanet", "--data", "BOXES", "--image-size", "64"],
            "--image-size: .* own: leave",
        ),
        (["--model", "tiny_detector:retinanet", "--data", "digits"], "finds objects"),
        (["--model", "tiny_segmenter:UNet", "--data", "MASKS", "--image-size", "32"], "is not trained: name its"),
        (["--model", "tiny_segmenter:UNet", "--data", "digits"], "and needs .batch, 10."),
    ],
)
def test_images_of_another_kind_are_refused(
    words: list[str], line: str, boxes: str, masks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [{"BOXES": boxes, "MASKS": masks}.get(word, word) for word in words]
    assert main(["run", *words, "--target-speedup", "1.3", "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert pytest.importorskip("re").search(line, told), told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mistaken", ["boxes for masks", "masks for boxes", "batches", "rivals", "mean"])
def test_so_they_are_in_python(
    mistaken: str, detector: nn.Module, segmenter: nn.Module, boxes: str, masks: str, tmp_path: Path
) -> None:
    model, data, more, line = {
        "boxes for masks": (segmenter, load_coco(boxes, hold_out=0.1), {}, "data is a DetectionData"),
        "masks for boxes": (detector, load_masks(masks, hold_out=0.1), {}, "expected images with boxes"),
        "batches": (detector, [torch.rand(64, 3, 32, 32)], {}, "expected images with boxes"),
        "rivals": (detector, boxes, {"rivals": True}, "rivals: Torch-Pruning does not end on a detector"),
        "mean": (detector, boxes, {"mean": (0.5, 0.5, 0.5)}, "mean: a detector has its own, leave it out"),
    }[mistaken]
    with pytest.raises(InputError, match=line):
        run(model, data, out=tmp_path / "out", **{**SETTINGS, **more})
    assert not (tmp_path / "out").exists()


def test_draws_of_the_images_lie_about_the_average_precision(detector: nn.Module, boxes: str) -> None:
    data = load_coco(boxes)
    from_boxes = [
        {"image_id": row["image_id"], "category_id": row["category_id"], "bbox": row["bbox"], "score": 0.9}
        for row in data.test.annotations.content["annotations"]
        if row["image_id"] < 40
    ]
    low, high = ap_by_draws(data.test.annotations, from_boxes)
    assert low < score_boxes(data.test.annotations, from_boxes).ap < high
    assert ap_by_draws(data.test.annotations, from_boxes) == (low, high), "the draws are the same ones"
    assert ap_by_draws(data.test.annotations, []) == (0.0, 0.0)


def test_the_same_boxes_are_counted_once_each(boxes: str) -> None:
    images = load_coco(boxes).test

    def answers(*found: tuple[int, int, list[float], float]) -> BoxAnswers:
        names = ("image_id", "category_id", "bbox", "score")
        return BoxAnswers([dict(zip(names, one, strict=True)) for one in found], images)

    theirs = answers((1, 3, [0, 0, 10, 10], 0.9), (1, 3, [0, 0, 10, 9], 0.8), (1, 7, [0, 0, 10, 10], 0.9))
    assert theirs.same_as(theirs) == 1
    assert answers((1, 3, [0, 0, 10, 10], 0.9)).same_as(theirs) == pytest.approx(1 / 3)
    assert answers((2, 3, [0, 0, 10, 10], 0.9)).same_as(theirs) == 0
    assert answers((1, 3, [0, 0, 10, 10], 0.4)).same_as(theirs) == 0, "it is not sure"


def test_a_network_that_knows_other_classes_is_refused(segmenter: nn.Module, boxes: str, tmp_path: Path) -> None:
    save(segmenter, tmp_path / "segmenter.safetensors", extra={"classes": ["background", "block", "bar"]})
    other = load(tmp_path / "segmenter.safetensors", factory="tiny_segmenter:UNet")
    reference = make_masks(tmp_path / "masks", train=40)[0]
    line = "knows other classes than voc:.*: class 2 is 'block' there and 'bar' here"
    with pytest.raises(InputError, match=line):
        segment.evaluate(other, reference, image_size=SIDE, workers=0)
    with pytest.raises(InputError, match=line):
        run(other, reference, out=tmp_path / "out", image_size=SIDE, **SETTINGS)
