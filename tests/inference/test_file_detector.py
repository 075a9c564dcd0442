"""A detector whose plain part is an exported file finds what the detector finds."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_boxes import make_boxes
from tiny_detector import fasterrcnn, retinanet

from ghostify import FileNetwork, InputError, export
from ghostify.cli import main
from ghostify.inference.file_detector import detector_by_file

RANDOM = torch.Generator().manual_seed(0)
IMAGES = [torch.rand(3, *size, generator=RANDOM) for size in ((64, 90), (70, 64))]  # the transform makes others of them
# With every box kept, what is found does not hang on which of two nearly equal scores rounding makes the greater.
ALL = {"nms_thresh": 1.0, "score_thresh": 0.0, "detections_per_img": 10**4}


@pytest.mark.parametrize("build", [retinanet, fasterrcnn])
@torch.no_grad()
def test_boxes_are_the_detectors_own(build: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    of_boxes = {f"box_{name}": value for name, value in ALL.items()} | {"rpn_nms_thresh": 1.0}
    detector = build(**(ALL if build is retinanet else of_boxes)).eval()
    largest = detector.transform(IMAGES)[0].tensors
    export(detector, tmp_path / "network.onnx", largest[:1])
    by_file = detector_by_file(detector, FileNetwork(tmp_path / "network.onnx"))
    for given, right in zip(by_file(IMAGES), detector(IMAGES), strict=True):
        assert len(given["boxes"]) == len(right["boxes"]) > 0
        apart = (table(given)[:, None] - table(right)).abs().amax(2)
        assert apart.amin(0).max() < 1e-3, "each of the detector's boxes, with its label and score"
        assert apart.amin(1).max() < 1e-3, "and no others"
    assert len(by_file(IMAGES[:1])[0]["boxes"]), "padded to the size of the file"
    assert "forward" not in vars(detector), "the detector that was given is as it was"
    export(detector, tmp_path / "small.onnx", largest[:1, :, :64, :64])
    with pytest.raises(InputError, match=r"small\.onnx takes 64×64 pixels, and an image becomes \d+×\d+: expected"):
        detector_by_file(detector, FileNetwork(tmp_path / "small.onnx"))(IMAGES)


def table(found: dict[str, torch.Tensor]) -> torch.Tensor:
    """Boxes, labels and scores, a row each: [boxes, 6]."""
    return torch.cat((found["boxes"], found["labels"][:, None], found["scores"][:, None]), 1)


def test_the_verb_scores_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    reference = make_boxes(tmp_path)
    torch.manual_seed(0)
    torch.save(retinanet().state_dict(), tmp_path / "weights.pt")
    named = ["tiny_detector:retinanet", "--weights", str(tmp_path / "weights.pt")]
    exported = ["export", *named, "--data", reference, "--int8", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main([*exported, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["int8"]["agreement"] is None
    assert report["int8"]["output_error"] > 0
    evaluate = ["detect", "evaluate", *named, "--data", reference, "--workers", "0", "--device", "cpu", "--json"]
    scores = {}
    for name, file in (("network", []), ("file", ["--file", report["path"]])):
        assert main([*evaluate, *file]) == 0
        scores[name] = json.loads(capsys.readouterr().out)
    assert scores["file"]["file"] == report["path"]
    assert scores["file"]["images"] == scores["network"]["images"] > 0
    assert main([*evaluate, "--file", str(tmp_path / "weights.pt")]) == 2
    assert "expected an exported file, which ends in .onnx or .xml" in capsys.readouterr().err
