"""The ghost of MobileNetV3-Large."""

from torch import nn
from torchvision.models import MobileNetV3, mobilenet_v3_large
from torchvision.ops import Conv2dNormActivation

from ghostify.layers import GhostModule


def ghost_mobilenet_v3_large(num_classes: int = 1000, *, ratio: int = 2, cheap_kernel_size: int = 3) -> MobileNetV3:
    """torchvision's ``mobilenet_v3_large`` with the expansions and projections of its blocks ghosted.

    Stem, depthwise convolutions, squeeze-excite gates, last convolution and classifier stay.
    """
    model = mobilenet_v3_large(num_classes=num_classes)
    for block in list(model.features)[1:-1]:
        layers = block.block
        for index, layer in enumerate(layers):
            if isinstance(layer, Conv2dNormActivation) and layer[0].kernel_size == (1, 1):
                layers[index] = ghost_of(layer, ratio, cheap_kernel_size)
    return model


def ghost_of(layer: Conv2dNormActivation, ratio: int, cheap_kernel_size: int) -> GhostModule:
    """A ghost module with the channels, activation and BatchNorm settings of a 1×1 convolution layer."""
    conv, norm, activation = layer[0], layer[1], layer[2] if len(layer) > 2 else None
    ghost = GhostModule(
        conv.in_channels,
        conv.out_channels,
        ratio=ratio,
        cheap_kernel_size=cheap_kernel_size,
        relu=activation is not None,
        activation=type(activation) if activation is not None else nn.ReLU,
    )
    for module in ghost.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = norm.eps, norm.momentum
    return ghost
