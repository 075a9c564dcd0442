"""A detector's plain part goes to other engines, and boxes are chosen outside as by the detector itself."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from tiny_detector import anchors, fasterrcnn, fcos, pyramid, retinanet, ssd
from torch import nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from ghostify import InputError, compare, convert, count, deploy, export, plan
from ghostify.inference.engines import FileRunner
from ghostify.plain_part import finish, input_shape_of, plain_part

SHAPE = (3, 64, 96)


@pytest.mark.parametrize("build", [retinanet, fasterrcnn, fcos, ssd])
def test_a_deployed_detector_gives_the_same_maps(build: Any) -> None:
    model = convert(build().eval(), cheap="pointwise", parts=("fpn", "head")).model.eval()
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        maps = plain_part(model)(x)
        assert len(maps) > 1
        for given, wanted in zip(deploy(model, x[:1])(x), maps, strict=True):
            torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [retinanet, fcos, ssd])
def test_boxes_from_an_exported_file_are_those_of_the_detector(build: Any, tmp_path: Path) -> None:
    model = build(score_thresh=0.0).eval()
    images, path = [torch.rand(3, 64, 96), torch.rand(3, 60, 90)], tmp_path / "network.onnx"
    inputs, _ = model.transform(images)
    assert tuple(inputs.tensors.shape[1:]) == input_shape_of(model) == SHAPE
    assert export(model, path, inputs.tensors[:1]).difference < 1e-4
    with FileRunner(path, "onnxruntime", threads=1) as runner, torch.no_grad():
        outputs = tuple(runner.outputs(inputs.tensors))
        found, wanted = finish(model, outputs, inputs.image_sizes, inputs.tensors), model(images)
    found = model.transform.postprocess(found, inputs.image_sizes, [(64, 96), (60, 90)])
    for given, right in zip(found, wanted, strict=True):
        assert len(right["boxes"]) > 3
        torch.testing.assert_close(given["scores"], right["scores"], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"\d+ boxes: of \[2, 3, 64, 96\] the detector has \d+"):
        finish(model, tuple(output[:, 1:] for output in outputs), inputs.image_sizes, inputs.tensors)


def test_a_head_that_runs_at_every_level_is_in_the_file_once(tmp_path: Path) -> None:
    model = retinanet().eval()
    export(model, tmp_path / "network.onnx", torch.randn(1, *SHAPE))
    stored = onnx.load(tmp_path / "network.onnx").graph.initializer
    weights = sum(onnx.numpy_helper.to_array(tensor).size for tensor in stored)
    assert weights < 1.05 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("build", [retinanet, fasterrcnn, fcos, ssd])
def test_a_detector_is_planned_as_a_whole_and_follows_its_plan(build: Any) -> None:
    model = build().eval()
    images = [list(torch.rand(8, *SHAPE)) for _ in range(4)]
    planned = plan(model, example=torch.randn(1, *SHAPE), calibration=images, target_macs=0.75)
    assert any("head" in name for name in planned), "the head has a part in it, however often it runs"
    converted = convert(model, calibration=images, plan=planned, effort="fast").model
    x = torch.randn(2, *SHAPE)
    before, after = (count(plain_part(network), SHAPE).macs for network in (model, converted))
    assert after / before == pytest.approx(planned.macs, abs=1e-3)
    assert planned.macs <= 0.75
    with torch.no_grad():
        expected, outputs = plain_part(model)(x), plain_part(converted.eval())(x)
        deployed = deploy(converted, x[:1])(x)
        assert len(converted(list(torch.rand(2, *SHAPE)))) == 2
    for given, wanted, in_file in zip(outputs, expected, deployed, strict=True):
        assert given.shape == wanted.shape
        torch.testing.assert_close(in_file, given, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("family", "kind", "width"), [(MaskRCNN, "mask", 256), (KeypointRCNN, "keypoint", 512)])
def test_second_stages_for_masks_and_keypoints_are_counted(family: Any, kind: str, width: int) -> None:
    options = {
        f"{kind}_roi_pool": MultiScaleRoIAlign(["0"], 6, 2),
        f"{kind}_head": nn.Conv2d(16, width, 3, padding=1),
        "rpn_anchor_generator": anchors(),
        "box_detections_per_img": 5,
    }
    counted = count(family(pyramid(16, True), num_classes=3, min_size=64, max_size=96, **options).eval(), SHAPE)
    assert counted.of(f"roi_heads.{kind}_head").macs == 5 * 6 * 6 * 16 * width * 9
    assert counted.of(f"roi_heads.{kind}_predictor").macs > 0


def test_detectors_are_compared_by_their_plain_parts() -> None:
    model = retinanet().eval()
    model.transform.register_forward_hook(lambda *_: pytest.fail("images are resized"))
    assert compare(model, model, torch.zeros(1, *SHAPE), blocks=6, block_ms=1).a_ms > 0


@pytest.mark.parametrize("kind", [RetinaNet, FasterRCNN])
def test_a_backbone_without_a_pyramid_gives_one_map(kind: Any) -> None:
    """As in torchvision's documentation of both, where the backbone returns a tensor."""
    torch.manual_seed(0)
    backbone = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 8, 8, 3, 2, 1) for i in range(4)))
    backbone.out_channels = 8
    anchors = AnchorGenerator(((16, 32),), ((0.5, 1.0),))
    options = {"anchor_generator" if kind is RetinaNet else "rpn_anchor_generator": anchors, "min_size": 64}
    if kind is FasterRCNN:
        options["box_roi_pool"] = MultiScaleRoIAlign(["0"], 7, 2)
    model = kind(backbone, num_classes=2, max_size=96, **options).eval()
    (model if kind is RetinaNet else model.roi_heads).score_thresh = 0.0
    images = [torch.rand(3, 64, 90), torch.rand(3, 60, 96)]
    inputs, _ = model.transform(images)
    with torch.no_grad():
        found = finish(model, plain_part(model)(inputs.tensors), inputs.image_sizes, inputs.tensors)
        wanted = model(images)
    found = model.transform.postprocess(found, inputs.image_sizes, [(64, 90), (60, 96)])
    for given, right in zip(found, wanted, strict=True):
        assert len(right["boxes"])
        torch.testing.assert_close(given, right)
