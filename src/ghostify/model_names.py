"""The names of the networks that are built here, known without PyTorch."""

from itertools import product

# A test holds these beside the builders.
MODELS = (
    "ghostnet_050",
    "ghostnet_100",
    "ghostnet_110",
    "ghostnet_130",
    "vgg16_cifar",
    "ghost_vgg16_cifar",
    "resnet20",
    "resnet56",
    "ghost_resnet20",
    "ghost_resnet56",
    "vgg16_bn",
    "ghost_vgg16_bn",
    "resnet50",
    "ghost_resnet50",
    "mobilenet_v3_large",
    "ghost_mobilenet_v3_large",
)
FAMILIES = ("retinanet", "fasterrcnn")
BACKBONES = (
    "ghostnet_100",
    "ghostnet_110",
    "ghostnet_130",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "ghost_mobilenet_v3_large",
    "resnet50",
    "ghost_resnet50",
)


def list_models() -> list[str]:
    """The names of the networks that ``create_model`` builds, without detectors.

    Example:
        >>> "ghostnet_100" in list_models()
        True
    """
    return list(MODELS)


def list_detectors() -> list[str]:
    """The names of the detectors that ``create_model`` builds.

    Example:
        >>> "retinanet_ghostnet_110_fpn" in list_detectors()
        True
    """
    return [f"{family}_{backbone}_fpn" for family, backbone in product(FAMILIES, BACKBONES)]
