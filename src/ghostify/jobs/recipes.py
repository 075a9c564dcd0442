"""The published rows as recipes: the network, its training, the accuracy to reach, and the table that has it.

The schedules: Han et al. 2020, arXiv:1911.11907, section 4, and what its authors said of them in public since.
Top-1 and top-5 are as published; where the table has no such figure it is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ghostify.jobs.recipe import Recipe

PAPER = "Han et al. 2020, arXiv:1911.11907"


@dataclass(frozen=True)
class Row:
    """A published row, and how to train for it.

    Args:
        model: Name for ``create_model``.
        options: Options of the model.
        data: "cifar10" or "imagenet".
        recipe: The schedule; with ``lr_batch_size`` set the learning rate follows the number of processes.
        top1: Published top-1 accuracy, per cent.
        top5: Published top-5 accuracy, per cent.
        source: Table of these.
    """

    model: str
    options: Mapping[str, Any]
    data: str
    recipe: Recipe
    top1: float
    top5: float | None
    source: str


# "Fewer parameters need more epochs": 400, a tenth after 200, 300 and 375.
CIFAR10 = Recipe(epochs=400, batch_size=128, lr=0.1, weight_decay=1e-4, schedule="steps", warmup_epochs=0)
# Ours: what has become usual since. Its figures are goals, not published ones.
CIFAR10_MODERN = Recipe(
    epochs=160, batch_size=128, lr=0.1, weight_decay=5e-4, warmup_epochs=5, label_smoothing=0.1, ema=0.02
)
# 1,024 images per step on eight processes.
GHOSTNET = Recipe(
    epochs=400,
    batch_size=128,
    lr=0.1,
    lr_batch_size=256,
    weight_decay=4e-5,
    warmup_epochs=5,
    label_smoothing=0.1,
    color_jitter=0.4,
)
RESNET50 = Recipe(
    epochs=90, batch_size=32, lr=0.1, lr_batch_size=256, weight_decay=1e-4, schedule="thirds", warmup_epochs=0
)
MODERN_GOAL = "a goal of ours; the published figure is that of the recipe without _modern"

ROWS: Mapping[str, Row] = {
    "cifar10_vgg16": Row("vgg16_cifar", {}, "cifar10", CIFAR10, 93.6, None, f"{PAPER}, table 5"),
    "cifar10_ghost_vgg16": Row("ghost_vgg16_cifar", {}, "cifar10", CIFAR10, 93.7, None, f"{PAPER}, table 5"),
    "cifar10_resnet56": Row("resnet56", {}, "cifar10", CIFAR10, 93.0, None, f"{PAPER}, table 5"),
    "cifar10_ghost_resnet56": Row(
        "ghost_resnet56", {"cheap_kernel_size": 1}, "cifar10", CIFAR10, 92.7, None, f"{PAPER}, table 5"
    ),
    "cifar10_vgg16_modern": Row("vgg16_cifar", {}, "cifar10", CIFAR10_MODERN, 94.5, None, MODERN_GOAL),
    "cifar10_ghost_vgg16_modern": Row("ghost_vgg16_cifar", {}, "cifar10", CIFAR10_MODERN, 94.4, None, MODERN_GOAL),
    "cifar10_resnet56_modern": Row("resnet56", {}, "cifar10", CIFAR10_MODERN, 94.2, None, MODERN_GOAL),
    "cifar10_ghost_resnet56_modern": Row(
        "ghost_resnet56", {"cheap_kernel_size": 1}, "cifar10", CIFAR10_MODERN, 93.6, None, MODERN_GOAL
    ),
    "imagenet_ghostnet_050": Row("ghostnet_050", {}, "imagenet", GHOSTNET, 66.2, 86.6, f"{PAPER}, table 7"),
    "imagenet_ghostnet_100": Row("ghostnet_100", {}, "imagenet", GHOSTNET, 73.9, 91.4, f"{PAPER}, table 7"),
    "imagenet_ghostnet_130": Row("ghostnet_130", {}, "imagenet", GHOSTNET, 75.7, 92.7, f"{PAPER}, table 7"),
    "imagenet_mobilenet_v3_large": Row(
        "mobilenet_v3_large", {}, "imagenet", GHOSTNET, 75.2, None, f"{PAPER}, table 7, which quotes it"
    ),
    "imagenet_resnet50": Row("resnet50", {}, "imagenet", RESNET50, 75.3, 92.2, f"{PAPER}, table 6"),
    "imagenet_ghost_resnet50_s2": Row("ghost_resnet50", {}, "imagenet", RESNET50, 75.0, 92.3, f"{PAPER}, table 6"),
    "imagenet_ghost_resnet50_s4": Row(
        "ghost_resnet50", {"ratio": 4}, "imagenet", RESNET50, 74.1, 91.9, f"{PAPER}, table 6"
    ),
}
