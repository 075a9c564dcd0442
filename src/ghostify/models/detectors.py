"""Object detectors: torchvision's, on the backbones of this library."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from ghostify.data.images import IMAGENET_MEAN, IMAGENET_STD
from ghostify.errors import InputError, spelled
from ghostify.model_names import FAMILIES
from ghostify.models.ghostnet import GhostNet

ASPECT_RATIOS = (0.5, 1.0, 2.0)
CreateNetwork = Callable[..., nn.Module]


def whole_network(network: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    return network, ("layer1", "layer2", "layer3", "layer4")


def numbered_features(stages: Sequence[int], network: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    return network.get_submodule("features"), tuple(map(str, stages))


def ghostnet_stages(network: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """All layers before the last 1×1 convolution; at the ends of stages are 24, 40, 112 and 160 maps (at width 1)."""
    assert isinstance(network, GhostNet)
    parts = OrderedDict[str, nn.Module](conv_stem=network.conv_stem, bn1=network.bn1, relu=nn.ReLU())
    parts |= {f"stage{index}": stage for index, stage in enumerate(network.blocks)}
    return nn.Sequential(parts), ("stage2", "stage4", "stage6", "stage8")


# The part of a classification network that is a detector's backbone, a module whose children run one after the other,
# and the names of those that end the stages at 1/4, 1/8, 1/16 and 1/32 of the image's side.
BACKBONES: dict[str, Callable[[nn.Module], tuple[nn.Module, tuple[str, ...]]]] = {
    "ghostnet_100": ghostnet_stages,
    "ghostnet_110": ghostnet_stages,
    "ghostnet_130": ghostnet_stages,
    "mobilenet_v2": partial(numbered_features, (3, 6, 13, 17)),
    "mobilenet_v3_large": partial(numbered_features, (3, 6, 12, 15)),
    "ghost_mobilenet_v3_large": partial(numbered_features, (3, 6, 12, 15)),
    "resnet50": whole_network,
    "ghost_resnet50": whole_network,
}
DETECTORS = {f"{family}_{backbone}_fpn": (family, backbone) for family, backbone in product(FAMILIES, BACKBONES)}


@dataclass(frozen=True)
class DetectorOptions:
    """The settings of a detector, beside its backbone.

    Args:
        num_classes: Kinds of objects; the first of them has the label 1.
        fpn_channels: Number of maps at each level of the pyramid.
        min_size: Shorter side of resized images, pixels; less where the longer one would exceed ``max_size``.
        max_size: Largest longer side of resized images, pixels.
        smallest_anchor: Side of the smallest anchor boxes in the resized image, pixels; each level doubles it.
        norm: Put BatchNorm into the pyramid and GroupNorm into a RetinaNet's head, to learn without ImageNet weights.
        image_mean: Mean of each channel in 0..1 by which the backbone's images were normalised.
        image_std: Standard deviation of each channel, likewise.
    """

    num_classes: int = 90
    fpn_channels: int = 256
    min_size: int = 800
    max_size: int = 1333
    smallest_anchor: int = 32
    norm: bool = False
    image_mean: Sequence[float] = IMAGENET_MEAN
    image_std: Sequence[float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.fpn_channels < 1 or self.fpn_channels % 8:
            raise InputError(f"{spelled('fpn_channels')} is {self.fpn_channels}: expected a multiple of 8")
        if not (1 <= self.min_size <= self.max_size and self.smallest_anchor >= 1):
            raise InputError(
                f"{spelled('min_size')} is {self.min_size}, {spelled('max_size')} {self.max_size}, "
                f"{spelled('smallest_anchor')} {self.smallest_anchor}: "
                f"expected at least 1, and no less than {spelled('min_size')}"
            )

    @property
    def images(self) -> dict[str, Any]:
        """The arguments of torchvision's detectors for the size and normalisation of images."""
        mean, std = list(self.image_mean), list(self.image_std)
        return {"min_size": self.min_size, "max_size": self.max_size, "image_mean": mean, "image_std": std}


OWN_OPTIONS = frozenset(field.name for field in fields(DetectorOptions))


def detector(create_network: CreateNetwork, family: str, backbone: str, **options: Any) -> RetinaNet | FasterRCNN:
    """A RetinaNet or Faster R-CNN with a feature pyramid (Lin et al. 2017, arXiv:1708.02002, arXiv:1612.03144).

    Args:
        create_network: Builds the classification network by name.
        family: A name of ``FAMILIES``.
        backbone: A name of ``BACKBONES``.
        options: Those of ``DetectorOptions``; others are the backbone's builder's, such as ``ratio``.
    """
    own = DetectorOptions(**{name: value for name, value in options.items() if name in OWN_OPTIONS})
    others = {name: value for name, value in options.items() if name not in OWN_OPTIONS}
    single_stage, channels, answers = family == "retinanet", own.fpn_channels, own.num_classes + 1
    body, stages = BACKBONES[backbone](create_network(backbone_name(backbone), **others))
    stages = stages[1:] if single_stage else stages
    pyramid = BackboneWithFPN(
        body,
        {stage: str(level) for level, stage in enumerate(stages)},
        channels_at(body, stages),
        channels,
        LastLevelP6P7(channels, channels) if single_stage else LastLevelMaxPool(),
        nn.BatchNorm2d if own.norm else None,
    )
    sides = [own.smallest_anchor * 2**level for level in range(5)]
    if not single_stage:
        anchors = AnchorGenerator(tuple((side,) for side in sides), (ASPECT_RATIOS,) * len(sides))
        return FasterRCNN(pyramid, answers, rpn_anchor_generator=anchors, **own.images)
    # Three sizes at each level, a third of an octave apart (arXiv:1708.02002, section 4).
    sizes = tuple(tuple(int(side * 2 ** (third / 3)) for third in range(3)) for side in sides)
    anchors = AnchorGenerator(sizes, (ASPECT_RATIOS,) * len(sides))
    head = RetinaNetHead(
        channels,
        anchors.num_anchors_per_location()[0],
        answers,
        # Eight maps in a group, as there are in torchvision's 32 groups of 256.
        norm_layer=partial(nn.GroupNorm, channels // 8) if own.norm else None,
    )
    return RetinaNet(pyramid, answers, anchor_generator=anchors, head=head, **own.images)


def backbone_name(backbone: str) -> str:
    """The name of the classification network for ``create_model``."""
    return "torchvision:mobilenet_v2" if backbone == "mobilenet_v2" else backbone


def channels_at(body: nn.Module, stages: Sequence[str]) -> list[int]:
    """The numbers of maps at the ends of stages."""
    found = {}
    shapes_only = copy.deepcopy(body).to("meta").eval()
    x = torch.zeros(1, 3, 64, 64, device="meta")
    for name, part in shapes_only.named_children():
        x = part(x)
        found[name] = x.shape[1]
        if name == stages[-1]:
            break
    return [found[stage] for stage in stages]
