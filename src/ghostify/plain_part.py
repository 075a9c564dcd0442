"""The part of a detector that is a plain network, from images to maps, before any boxes are chosen."""

from collections import OrderedDict
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from ghostify.errors import InputError
from ghostify.modes import evaluating

PARTS = ("backbone", "fpn", "head")
Detector: TypeAlias = RetinaNet | FasterRCNN
Detections = list[dict[str, Tensor]]


class PlainPart(nn.Module):
    """Backbone, feature pyramid and the head that sees all of an image, under the detector's own names.

    Steps whose sizes depend on the image stay outside: resizing, anchors, the choice of boxes, and a Faster R-CNN's
    second stage. The modules are the detector's, not copies.

    Args:
        detector: torchvision's RetinaNet or Faster R-CNN.
        proposals: Number of regions of zeros to run through a Faster R-CNN's second stage, so that it is counted.
    """

    def __init__(self, detector: Detector, proposals: int = 0) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.proposals = proposals
        if isinstance(detector, RetinaNet):
            self.head = detector.head
        else:
            assert isinstance(detector, FasterRCNN)
            self.rpn = nn.ModuleDict({"head": detector.rpn.head})
            if proposals:
                self.roi_heads = nn.ModuleDict(
                    {name: getattr(detector.roi_heads, name) for name in ("box_head", "box_predictor")}
                )
                self.region = (proposals, self.backbone.out_channels, *detector.roi_heads.box_roi_pool.output_size)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Normalised images ``[batch, 3, height, width]``, sides multiples of 32, to the maps that boxes are made from.

        Returns:
            RetinaNet: logits ``[batch, anchors, classes]`` and offsets of the boxes ``[batch, anchors, 4]``. Faster
            R-CNN: the maps of the pyramid ``[batch, channels, h, w]``, finest first, then for each of them logits
            ``[batch, anchors, h, w]``, then for each of them offsets ``[batch, 4 * anchors, h, w]``.
        """
        found = self.backbone(x)  # one tensor where it has no pyramid
        maps = [found] if isinstance(found, Tensor) else list(found.values())
        if "head" in self._modules:
            answers = self.head(maps)
            return answers["cls_logits"], answers["bbox_regression"]
        logits, offsets = self.rpn["head"](maps)
        if self.proposals:
            region = x.new_zeros(self.region)
            for stage in self.roi_heads.values():  # the head, then what it predicts
                region = stage(region)
        return (*maps, *logits, *offsets)


def is_detector(model: nn.Module) -> bool:
    """True for a RetinaNet and a Faster R-CNN, whose plain parts are known."""
    return isinstance(model, RetinaNet | FasterRCNN)


def plain_part(model: nn.Module, *, second_stage: bool = False) -> nn.Module:
    """The plain part of a detector; any other network itself.

    Args:
        second_stage: Run the second stage of a Faster R-CNN, too, for as many regions as it looks at in an image.
    """
    if not is_detector(model):
        return model
    if not second_stage or not isinstance(model, FasterRCNN):
        return PlainPart(model)
    with evaluating(model.rpn):  # in training they are more
        return PlainPart(model, model.rpn.post_nms_top_n())


def parts_of(model: nn.Module) -> dict[str, str]:
    """Names of modules by the parts of a detector that they are; empty for another network."""
    if not is_detector(model):
        return {}
    parts = {"backbone": "backbone.body", "fpn": "backbone.fpn"}
    if isinstance(model, RetinaNet):
        return parts | {"head": "head"}
    return parts | {"head": "rpn.head", "second stage": "roi_heads"}


def input_shape_of(detector: Detector) -> tuple[int, int, int]:
    """Largest landscape input of the plain part, in multiples of 32 pixels: ``(3, height, width)``."""
    height, width = detector.transform.min_size[-1], detector.transform.max_size
    return 3, -(-height // 32) * 32, -(-width // 32) * 32


def what_it_takes(detector: Detector) -> dict[str, Any]:
    """The normalisation and the sizes by which images become inputs of the plain part, as JSON values."""
    transform = detector.transform
    return {
        "mean": list(transform.image_mean),
        "std": list(transform.image_std),
        "min_size": transform.min_size[-1],
        "max_size": transform.max_size,
        "size_divisible": transform.size_divisible,
    }


@torch.no_grad()
def finish(
    detector: Detector, outputs: tuple[Tensor, ...], image_sizes: list[tuple[int, int]], x: Tensor
) -> Detections:
    """Boxes from the outputs of the plain part, in this process or in another engine, by torchvision's own code.

    Args:
        detector: The detector, in eval mode.
        outputs: The outputs of its plain part for ``x``.
        image_sizes: Height and width of each image within ``x``, which may be padded, pixels.
        x: Input of the plain part ``[batch, 3, height, width]``.
    Returns:
        For each image ``boxes`` ``[found, 4]`` as x1, y1, x2, y2 in pixels of ``x``, ``scores`` 0..1 and ``labels``.
    """
    images = ImageList(x, image_sizes)
    if isinstance(detector, RetinaNet):
        logits, offsets = outputs
        maps = [x.new_empty(1, 1, *size) for size in level_sizes(detector, x, logits.shape[1])]
        anchors = detector.anchor_generator(images, maps)
        per_level = [m[0, 0].numel() * detector.anchor_generator.num_anchors_per_location()[0] for m in maps]
        head = {"cls_logits": list(logits.split(per_level, 1)), "bbox_regression": list(offsets.split(per_level, 1))}
        found: Detections = detector.postprocess_detections(
            head, [list(a.split(per_level)) for a in anchors], image_sizes
        )
        return found
    assert isinstance(detector, FasterRCNN)
    levels = len(outputs) // 3
    maps, logits_of, offsets_of = (list(outputs[i * levels : (i + 1) * levels]) for i in range(3))
    anchors = detector.rpn.anchor_generator(images, maps)
    per_level = [level[0].numel() for level in logits_of]
    logits, offsets = concat_box_prediction_layers(logits_of, offsets_of)
    boxes = detector.rpn.box_coder.decode(offsets, anchors).view(len(x), -1, 4)
    proposals, _ = detector.rpn.filter_proposals(boxes, logits, image_sizes, per_level)
    names = [*map(str, range(levels - 1)), "pool"] if levels > 1 else ["0"]  # as its pyramid, or torchvision, has them
    return detector.roi_heads(OrderedDict(zip(names, maps, strict=True)), proposals, image_sizes)[0]


def level_sizes(detector: RetinaNet, x: Tensor, boxes: int) -> list[tuple[int, int]]:
    """Height and width of the maps that the head took; each level halves the sizes, rounding up.

    Args:
        detector: The detector.
        x: Input of its plain part ``[batch, 3, height, width]``.
        boxes: Number of anchors at all levels together, from which follows how much smaller than ``x`` the first is.
    """
    levels = len(detector.anchor_generator.sizes)
    places = boxes // detector.anchor_generator.num_anchors_per_location()[0]
    for halved in range(max(x.shape[2:]).bit_length() + 1):
        sizes = [tuple(-(-side // 2 ** (halved + level)) for side in x.shape[2:]) for level in range(levels)]
        if sum(height * width for height, width in sizes) == places:
            return sizes
    raise InputError(f"{boxes} boxes are not what {levels} levels, each half as large, have of {list(x.shape)}")
