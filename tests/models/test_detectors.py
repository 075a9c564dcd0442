"""Detectors are torchvision's, on our backbones, tapped where the paper does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ghostify import InputError, count, create_model, list_detectors, load, save
from ghostify.models.backbone_weights import load_backbone_weights_
from ghostify.plain_part import finish, input_shape_of, plain_part

SMALL: dict[str, Any] = {"num_classes": 3, "fpn_channels": 16, "min_size": 64, "max_size": 96}


def test_every_backbone_has_both_detectors() -> None:
    names = list_detectors()
    for backbone in (
        "ghostnet_100",
        "ghostnet_110",
        "ghostnet_130",
        "mobilenet_v3_large",
        "resnet50",
        "ghost_resnet50",
    ):
        assert f"retinanet_{backbone}_fpn" in names
        assert f"fasterrcnn_{backbone}_fpn" in names


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        ("ghostnet_100", [24, 40, 112, 160]),
        ("ghostnet_110", [28, 44, 124, 176]),
        ("mobilenet_v2", [24, 32, 96, 320]),
        ("mobilenet_v3_large", [24, 40, 112, 160]),
        ("ghost_mobilenet_v3_large", [24, 40, 112, 160]),
        ("ghost_resnet50", [256, 512, 1024, 2048]),
    ],
)
def test_a_backbone_is_tapped_at_the_ends_of_its_stages(backbone: str, channels: list[int]) -> None:
    """GhostNet's 112 maps at 1/16 and 160 at 1/32, not the 80 before them or the 960 behind."""
    body = create_model(f"fasterrcnn_{backbone}_fpn", **SMALL).backbone.body.eval()
    maps = list(body(torch.zeros(1, 3, 64, 96)).values())
    assert [m.shape[1] for m in maps] == channels
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    single_stage = create_model(f"retinanet_{backbone}_fpn", **SMALL).backbone.body.eval()
    assert [m.shape[1] for m in single_stage(torch.zeros(1, 3, 64, 96)).values()] == channels[1:]


def test_a_backbone_computes_what_its_classification_network_does() -> None:
    torch.manual_seed(1)
    network = create_model("ghostnet_100").eval()
    stages: list[torch.Tensor] = []
    for index in (4, 6, 8):
        network.blocks[index].register_forward_hook(lambda module, args, output: stages.append(output))
    detector = create_model("retinanet_ghostnet_100_fpn", **SMALL)
    own = detector.backbone.body
    learned = network.state_dict()
    own.load_state_dict(
        {
            key: learned[key if key.startswith(("conv_stem", "bn1")) else f"blocks.{key.removeprefix('stage')}"]
            for key in own.state_dict()
        }
    )
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        network(x)
        maps = list(own.eval()(x).values())
    for given, wanted in zip(maps, stages, strict=True):
        torch.testing.assert_close(given, wanted, rtol=0, atol=0)


def lenient(detector: Any) -> Any:
    """The same, which keeps boxes however unsure it is."""
    (detector if hasattr(detector, "head") else detector.roi_heads).score_thresh = 0.0
    return detector.eval()


@pytest.mark.parametrize("name", ["retinanet_ghostnet_100_fpn", "fasterrcnn_mobilenet_v3_large_fpn"])
def test_plain_part_and_finish_are_the_detector(name: str) -> None:
    """On images of two sizes, so that one of them is padded."""
    detector = lenient(create_model(name, **SMALL))
    images = [torch.rand(3, 60, 90), torch.rand(3, 70, 50)]
    with torch.no_grad():
        wanted = detector(images)
        inputs, _ = detector.transform(images)
        found = finish(detector, plain_part(detector)(inputs.tensors), inputs.image_sizes, inputs.tensors)
        found = detector.transform.postprocess(found, inputs.image_sizes, [(60, 90), (70, 50)])
    for given, right in zip(found, wanted, strict=True):
        assert len(right["boxes"]) > 10
        assert given.keys() == right.keys()
        for key in right:
            torch.testing.assert_close(given[key], right[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["retinanet_ghostnet_130_fpn", "fasterrcnn_ghost_resnet50_fpn"])
def test_a_detector_goes_to_disk_and_comes_back(name: str, tmp_path: Path) -> None:
    detector = lenient(create_model(name, norm=True, smallest_anchor=16, image_mean=[0.5] * 3, **SMALL))
    save(detector, tmp_path / "detector.safetensors")
    again = lenient(load(tmp_path / "detector.safetensors"))
    image = torch.rand(3, 60, 90)
    with torch.no_grad():
        (wanted,), (given,) = detector([image]), again([image])
    assert len(wanted["boxes"]) > 10
    for key in wanted:
        torch.testing.assert_close(given[key], wanted[key], rtol=0, atol=0)


def test_a_detector_is_counted_part_by_part() -> None:
    detector = create_model("fasterrcnn_mobilenet_v3_large_fpn", **SMALL)
    counted = count(detector, (3, 64, 96))
    assert counted.params == sum(p.numel() for p in detector.parameters())
    assert not counted.unknown
    macs = {layer.name: layer.macs for layer in counted.layers}
    assert macs["backbone.body.0.0"] == 16 * 32 * 48 * 3 * 9
    assert macs["backbone.fpn.inner_blocks.0.0"] == 16 * 16 * 24 * 24
    assert macs["backbone.fpn.layer_blocks.0.0"] == 16 * 16 * 24 * 16 * 9
    pixels = 16 * 24 + 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2  # of all five levels, which share the head
    assert macs["rpn.head.conv.0.0"] == 16 * pixels * 16 * 9
    assert macs["rpn.head.bbox_pred"] == 3 * 4 * pixels * 16
    # The second stage looks at 1,000 regions of 16 maps, 7×7 each.
    assert macs["roi_heads.box_head.fc6"] == 1000 * 16 * 7 * 7 * 1024
    assert macs["roi_heads.box_predictor.cls_score"] == 1000 * 1024 * 4


def test_the_fixed_input_is_the_largest_image_that_lies() -> None:
    assert input_shape_of(create_model("retinanet_ghostnet_100_fpn")) == (3, 800, 1344)


def test_a_classification_networks_weights_become_the_backbones(tmp_path: Path) -> None:
    network = create_model("ghost_mobilenet_v3_large", num_classes=5, ratio=4)
    save(network, tmp_path / "network.safetensors")
    detector = create_model("retinanet_ghost_mobilenet_v3_large_fpn", ratio=4, **SMALL)
    load_backbone_weights_(detector, tmp_path / "network.safetensors")
    body = detector.backbone.body.state_dict()
    assert len(body) > 100
    for key, tensor in body.items():
        assert torch.equal(tensor, network.features.state_dict()[key]), key
    with pytest.raises(InputError, match="is of another network than GhostNet"):
        load_backbone_weights_(create_model("retinanet_ghostnet_100_fpn", **SMALL), tmp_path / "network.safetensors")
    with pytest.raises(InputError, match="backbone weights are for a detector by name"):
        load_backbone_weights_(nn.Conv2d(3, 3, 1), tmp_path / "network.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fpn_channels": 12}, "fpn_channels is 12: expected a multiple of 8"),
        ({"min_size": 128}, "expected at least 1, and no less than min_size"),
        ({"pretrained": True}, "pretrained is not taken here"),
        ({"depth": 3}, "cannot be built with"),
    ],
)
def test_what_a_detector_cannot_be_built_with_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model("retinanet_ghostnet_100_fpn", **(SMALL | options))


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(InputError, match="did you mean retinanet_ghostnet_1"):
        create_model("retinanet_ghostnet_120_fpn")
