"""The part of a detector that is a plain network, from images to maps, before any boxes are chosen."""

from collections import OrderedDict
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.models.detection.ssd import SSD

from ghostify.errors import InputError
from ghostify.modes import evaluating

PARTS = ("backbone", "fpn", "head")
OneStage: TypeAlias = RetinaNet | FCOS | SSD
Detector: TypeAlias = OneStage | FasterRCNN  # with its subclasses for masks and keypoints
Detections = list[dict[str, Tensor]]
ANSWERS = ("cls_logits", "bbox_regression", "bbox_ctrness")  # of a head, as torchvision calls them


class PlainPart(nn.Module):
    """Backbone, feature pyramid and the head that sees all of an image, under the detector's own names.

    Steps whose sizes depend on the image stay outside: resizing, anchors, the choice of boxes, and a Faster R-CNN's
    second stage. The modules are the detector's, not copies.

    Args:
        detector: One of torchvision's.
        second_stage: Run a Faster R-CNN's second stage on regions of zeros, as many as it looks at, so that it is
            counted.
        with_maps: Return the maps that the head takes in front of its outputs, of every detector.
    """

    def __init__(self, detector: Detector, *, second_stage: bool = False, with_maps: bool = False) -> None:
        super().__init__()
        self.backbone, self.with_maps = detector.backbone, with_maps
        self.stages: list[tuple[tuple[str, str], tuple[int, ...]]] = []  # modules in turn, and what the first takes
        if not isinstance(detector, FasterRCNN):
            self.head = detector.head
            return
        self.rpn = nn.ModuleDict({"head": detector.rpn.head})
        if second_stage:
            regions = detector.roi_heads
            with evaluating(detector.rpn):  # in training they are more
                proposals = detector.rpn.post_nms_top_n()
            numbers = {"box": proposals, "mask": regions.detections_per_img, "keypoint": regions.detections_per_img}
            numbers = {kind: number for kind, number in numbers.items() if getattr(regions, f"{kind}_head") is not None}
            names = {kind: (f"{kind}_head", f"{kind}_predictor") for kind in numbers}
            self.roi_heads = nn.ModuleDict({name: getattr(regions, name) for pair in names.values() for name in pair})
            for kind, number in numbers.items():
                size = getattr(regions, f"{kind}_roi_pool").output_size
                self.stages.append((names[kind], (number, self.backbone.out_channels, *size)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Normalised images ``[batch, 3, height, width]``, as the detector resizes them, to the maps that boxes are of.

        Returns:
            RetinaNet, SSD and FCOS: logits ``[batch, anchors, classes]``, offsets of the boxes ``[batch, anchors, 4]``,
            and of an FCOS how central they are ``[batch, anchors, 1]``. Faster R-CNN: the maps of the pyramid
            ``[batch, channels, h, w]``, finest first, then for each of them logits ``[batch, anchors, h, w]``, then for
            each of them offsets ``[batch, 4 * anchors, h, w]``.
        """
        found = self.backbone(x)  # one tensor where it has no pyramid
        maps = [found] if isinstance(found, Tensor) else list(found.values())
        if "head" in self._modules:
            answers = self.head(maps)
            return (*(maps if self.with_maps else ()), *(answers[name] for name in ANSWERS if name in answers))
        logits, offsets = self.rpn["head"](maps)
        for names, shape in self.stages:
            region = x.new_zeros(shape)
            for name in names:  # the head, then what it predicts
                region = self.roi_heads[name](region)
        return (*maps, *logits, *offsets)


def is_detector(model: nn.Module) -> bool:
    """True for torchvision's detectors, whose plain parts are known."""
    return isinstance(model, RetinaNet | FCOS | SSD | FasterRCNN)


def plain_part(model: nn.Module, *, second_stage: bool = False) -> nn.Module:
    """The plain part of a detector; any other network itself.

    Args:
        second_stage: Run the second stage of a Faster R-CNN, too, for as many regions as it looks at in an image.
    """
    return PlainPart(model, second_stage=second_stage) if is_detector(model) else model


def parts_of(model: nn.Module) -> dict[str, str]:
    """Names of modules by the parts of a detector that they are; empty for another network."""
    if not is_detector(model):
        return {}
    pyramid = "fpn" in model.get_submodule("backbone")._modules
    parts = {"backbone": "backbone.body", "fpn": "backbone.fpn"} if pyramid else {"backbone": "backbone"}
    if isinstance(model, FasterRCNN):
        return parts | {"head": "rpn.head", "second stage": "roi_heads"}
    return parts | {"head": "head"}


def input_shape_of(detector: Detector) -> tuple[int, int, int]:
    """Largest landscape input of the plain part, in whole steps of its sizes: ``(3, height, width)``."""
    transform = detector.transform
    width, height = transform.fixed_size or (transform.max_size, transform.min_size[-1])
    step = transform.size_divisible
    return 3, -(-height // step) * step, -(-width // step) * step


def what_it_takes(detector: Detector) -> dict[str, Any]:
    """The normalisation and the sizes by which images become inputs of the plain part, as JSON values."""
    transform = detector.transform
    return {
        "mean": list(transform.image_mean),
        "std": list(transform.image_std),
        "min_size": transform.min_size[-1],
        "max_size": transform.max_size,
        "size_divisible": transform.size_divisible,
        **({"fixed_size": list(transform.fixed_size)} if transform.fixed_size else {}),  # width, height
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
    if not isinstance(detector, FasterRCNN):
        head: dict[str, Any] = dict(zip(ANSWERS, outputs, strict=False))
        sizes = level_sizes(detector, x)
        maps = [x.new_empty(1, 1, *size) for size in sizes]
        anchors = detector.anchor_generator(images, maps)
        if len(anchors[0]) != outputs[0].shape[1]:
            raise InputError(f"{outputs[0].shape[1]} boxes: of {list(x.shape)} the detector has {len(anchors[0])}")
        if not isinstance(detector, SSD):  # which takes those of all levels together
            per_place = detector.anchor_generator.num_anchors_per_location()[0]
            per_level = [height * width * per_place for height, width in sizes]
            head = {name: list(tensor.split(per_level, 1)) for name, tensor in head.items()}
            anchors = [list(image.split(per_level)) for image in anchors]
        found: Detections = detector.postprocess_detections(head, anchors, image_sizes)
        return found
    levels = len(outputs) // 3
    maps, logits_of, offsets_of = (list(outputs[i * levels : (i + 1) * levels]) for i in range(3))
    anchors = detector.rpn.anchor_generator(images, maps)
    per_level = [level[0].numel() for level in logits_of]
    logits, offsets = concat_box_prediction_layers(logits_of, offsets_of)
    boxes = detector.rpn.box_coder.decode(offsets, anchors).view(len(x), -1, 4)
    proposals, _ = detector.rpn.filter_proposals(boxes, logits, image_sizes, per_level)
    names = [*map(str, range(levels - 1)), "pool"] if levels > 1 else ["0"]  # as its pyramid, or torchvision, has them
    return detector.roi_heads(OrderedDict(zip(names, maps, strict=True)), proposals, image_sizes)[0]


# Found once for each size of input: it takes longer than a small detector's file.
LEVELS: WeakKeyDictionary[nn.Module, dict[torch.Size, list[tuple[int, int]]]] = WeakKeyDictionary()


def level_sizes(detector: OneStage, x: Tensor) -> list[tuple[int, int]]:
    """Height and width of the maps that the head takes of an input of the plain part; found without computing."""
    known = LEVELS.setdefault(detector, {})
    if x.shape not in known:
        known[x.shape] = found_level_sizes(detector.backbone, x)
    return known[x.shape]


def found_level_sizes(backbone: nn.Module, x: Tensor) -> list[tuple[int, int]]:
    """The sizes that ``level_sizes`` remembers."""
    state = {name: tensor.to("meta") for name, tensor in (*backbone.named_parameters(), *backbone.named_buffers())}
    with evaluating(backbone):
        found = functional_call(backbone, state, (x.to("meta"),))
    maps = [found] if isinstance(found, Tensor) else found.values()
    return [(m.shape[2], m.shape[3]) for m in maps]
