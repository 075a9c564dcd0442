"""The parts of a detector become ghosts, and the rest of it stays what it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ghostify import GhostConv2d, InputError, convert, count, create_model, load, save
from ghostify.changes import LayerPlan, Prune
from ghostify.plain_part import plain_part
from ghostify.transform.changeable import changeable_convolutions, prunable_among
from ghostify.transform.detector import Pyramid, plain_inputs

SHAPE = (3, 64, 96)


def detector(family: str = "retinanet") -> Any:
    torch.manual_seed(0)
    return create_model(f"tiny_detector:{family}", norm=False).eval()


def images(number: int = 32) -> list[Tensor]:
    """Smooth ones, of which a network can say something: noise has no near-copies."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(number, 3, 6, 9, generator=generator)
    return list(torch.nn.functional.interpolate(coarse, (64, 96), mode="bilinear").split(16))


@pytest.mark.parametrize("family", ["retinanet", "fasterrcnn"])
@pytest.mark.parametrize("parts", [("backbone",), ("fpn", "head")])
def test_only_the_parts_that_are_named_become_ghosts(family: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    original = detector(family)
    before = {key: tensor.clone() for key, tensor in original.state_dict().items()}
    found = convert(original, calibration=images(), cheap="pointwise", effort="fast", parts=parts)
    assert all(torch.equal(tensor, before[key]) for key, tensor in original.state_dict().items())

    prefix = {"backbone": "backbone.body.", "fpn": "backbone.fpn.", "head": ("head.", "rpn.head.")}
    ghosts = [name for name, module in found.model.named_modules() if isinstance(module, GhostConv2d)]
    assert sorted(ghosts) == sorted(row.name for row in found.layers if row.replaced)
    for part, start in prefix.items():
        assert any(name.startswith(start) for name in ghosts) == (part in parts), part

    # Multiply-adds are those of a whole image, also for a head that was calibrated on pieces of maps.
    counted = {layer.name: layer.macs for layer in count(original, SHAPE).layers}
    rows = {row.name: row for row in found.layers}
    assert all(rows[name].macs_before == counted[name] for name in ghosts)
    saved = sum(rows[name].macs_before - rows[name].macs_after for name in ghosts)
    assert count(found.model, SHAPE).macs == count(original, SHAPE).macs - saved

    save(found.model, tmp_path / "ghost.safetensors")
    again = load(tmp_path / "ghost.safetensors", factory=f"tiny_detector:{family}")
    x = torch.randn(1, *SHAPE)
    with torch.no_grad():
        for given, wanted in zip(plain_part(again)(x), plain_part(found.model)(x), strict=True):
            torch.testing.assert_close(given, wanted, rtol=0, atol=0)


def far(ghost: Any, original: Any) -> float:
    """Mean squared difference of what the plain parts give, over its variance."""
    x = torch.cat(plain_inputs(original, images()))
    with torch.no_grad():
        given, wanted = (torch.cat([o.flatten() for o in plain_part(m)(x)]) for m in (ghost, original))
    return float((given - wanted).square().mean() / wanted.var())


def test_a_calibrated_head_keeps_what_the_head_says() -> None:
    original = detector()
    calibrated = convert(original, calibration=images(), cheap="pointwise", effort="fast", parts=("head",))
    assert calibrated.replaced >= 8
    assert far(calibrated.model, original) < 0.1 * far(
        convert(original, cheap="pointwise", parts=("head",)).model, original
    )


def test_pruned_channels_leave_the_pyramid_as_wide_as_it_was() -> None:
    sizes = {"num_classes": 2, "fpn_channels": 16, "min_size": 64, "max_size": 96}
    model = create_model("retinanet_mobilenet_v3_large_fpn", **sizes).eval()
    example = torch.randn(1, *SHAPE)
    pyramid = Pyramid(model.backbone)
    convs = changeable_convolutions(pyramid, (), example)
    places = prunable_among(pyramid, convs, example)
    prunable = [name for name, place in places.items() if not isinstance(place, str)]
    halves = {name: convs[name].out_channels // 2 for name in prunable if "body" in name}
    plan = {name: LayerPlan(Prune(convs[name].out_channels - half, half)) for name, half in halves.items()}
    found = convert(model, calibration=images(), plan=plan, effort="fast")
    assert sum(row.dropped for row in found.layers) > 100
    with torch.no_grad():
        levels = found.model.backbone(torch.randn(1, *SHAPE))
    assert {level.shape[1] for level in levels.values()} == {16}


def test_images_of_several_sizes_become_inputs_of_one() -> None:
    batches = [[torch.rand(3, 40, 60), torch.rand(3, 60, 40)], [torch.rand(3, 50, 50)]]
    inputs = plain_inputs(detector(), batches)
    assert [tuple(x.shape) for x in inputs] == [(2, 3, 96, 96), (1, 3, 96, 96)]
    assert float(inputs[1][:, :, 64:].abs().max()) == 0.0  # 64×64, and padded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ("neck",)}, r"parts is \['neck'\]: expected one or more of backbone, fpn, head"),
        ({"parts": ()}, "expected one or more of backbone, fpn, head"),
        ({"calibration": [torch.zeros(32, 3, 64, 96, dtype=torch.uint8)]}, "images .* with values 0..1"),
        ({"calibration": [torch.zeros(32, 1, 64, 96)]}, r"images \[3, height, width\]"),
        ({"calibration": [torch.rand(4, 3, 64, 96)]}, "expected at least 32"),
        ({"skip": ["backbone.nowhere"]}, "matches no module"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(detector(), cheap="pointwise", **options)
