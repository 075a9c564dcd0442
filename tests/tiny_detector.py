"""Detectors small enough to learn, be converted and be exported within a test, built as a user's own would be."""

from collections import OrderedDict
from functools import partial
from typing import Any

from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD

SIZES = {"min_size": 64, "max_size": 96}


def retinanet(num_classes: int = 2, *, channels: int = 16, norm: bool = True, **options: Any) -> RetinaNet:
    """Three levels with an anchor at each place; head and pyramid have normalisation, where asked for."""
    groups = partial(nn.GroupNorm, 2) if norm else None
    head = RetinaNetHead(channels, 1, num_classes + 1, norm_layer=groups)
    return RetinaNet(
        pyramid(channels, norm), num_classes + 1, anchor_generator=anchors(), head=head, **(SIZES | options)
    )


def fasterrcnn(num_classes: int = 2, *, channels: int = 16, norm: bool = True, **options: Any) -> FasterRCNN:
    """The same pyramid and anchors, and the usual second stage."""
    return FasterRCNN(pyramid(channels, norm), num_classes + 1, rpn_anchor_generator=anchors(), **(SIZES | options))


def fcos(num_classes: int = 2, *, channels: int = 32, norm: bool = True, **options: Any) -> FCOS:
    """The same pyramid; each place is one anchor, and its head also says how central that is."""
    places = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    head = FCOSHead(channels, 1, num_classes + 1, 1)
    return FCOS(pyramid(channels, norm), num_classes + 1, anchor_generator=places, head=head, **(SIZES | options))


def ssd(num_classes: int = 2, *, channels: int = 16, norm: bool = True, **options: Any) -> SSD:
    """Images of one size; the head has other layers for each level."""
    boxes = DefaultBoxGenerator([[2], [2, 3], [2]], min_ratio=20, max_ratio=90)
    backbone = pyramid(channels, norm)
    backbone.out_channels = [channels] * 3
    return SSD(backbone, boxes, (96, 64), num_classes + 1, **options)


def anchors() -> AnchorGenerator:
    return AnchorGenerator(((16,), (32,), (64,)), ((1.0,),) * 3)


def pyramid(channels: int, norm: bool) -> BackboneWithFPN:
    """Levels at 1/8, 1/16 and, of the last one's maxima, 1/32 of the image's side."""

    def halved(inputs: int, maps: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(inputs, maps, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(maps), nn.ReLU(inplace=True)

    body = OrderedDict(
        stem=nn.Sequential(*halved(3, 16), *halved(16, 16)),
        fine=nn.Sequential(*halved(16, 24)),
        coarse=nn.Sequential(*halved(24, 32)),
    )
    norm_layer = nn.BatchNorm2d if norm else None
    return BackboneWithFPN(nn.Sequential(body), {"fine": "0", "coarse": "1"}, [24, 32], channels, norm_layer=norm_layer)
