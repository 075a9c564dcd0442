"""A RetinaNet's or Faster R-CNN's rival: its backbone and head narrower by Torch-Pruning, written as a network's file.

    python benchmarks/narrow_detector.py det/mobilenet_v3_large/network.safetensors --backbone 0.75 --head 0.38 \\
        --input-shape 3,256,320 --data 'coco:bccd?train=train&val=val' --out det/pruned_1.5.safetensors

Both shares are of multiply-adds. Torch-Pruning does not end on the whole, and prunes nothing where the pyramid is a
part: so the ends of the backbone's stages and the pyramid stay, and of MobileNetV3-Large's backbone no less than 0.7 is
left. BatchNorm statistics are estimated anew on training images without their boxes; `ghostify detect train` goes on.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from ghostify import count, load, save
from ghostify.data.coco import draw_images, load_coco
from ghostify.jobs.rivals import estimate_norms_
from ghostify.network_file import known_extra
from ghostify.plain_part import plain_part
from ghostify.transform.detector import plain_inputs
from ghostify.transform.narrow import narrow

PIECE = 32  # side of the maps on which the head's multiply-adds are counted


class Stages(nn.Module):
    """The backbone's stages, without the pyramid behind them."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.body(x).values())


class Towers(nn.Module):
    """The head's convolutions for one level, without the reshaping behind them."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, maps: Tensor) -> tuple[Tensor, ...]:
        if hasattr(self.head, "bbox_pred"):  # of a Faster R-CNN's first stage
            shared = self.head.conv(maps)
            return self.head.cls_logits(shared), self.head.bbox_pred(shared)
        classes, boxes = self.head.classification_head, self.head.regression_head
        return classes.cls_logits(classes.conv(maps)), boxes.bbox_reg(boxes.conv(maps))


def narrowed(part: nn.Module, shape: tuple[int, ...], share: float) -> nn.Module:
    return narrow(part, shape, round(share * count(part, shape).macs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", type=Path)
    parser.add_argument("--backbone", type=float, required=True)
    parser.add_argument("--head", type=float, required=True)
    parser.add_argument("--input-shape", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=205)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    detector = load(arguments.network).eval()
    shape = tuple(map(int, arguments.input_shape.split(",")))
    before = count(plain_part(detector), shape).macs
    detector.backbone.body = narrowed(Stages(detector.backbone.body), shape, arguments.backbone).body
    channels = (detector.backbone.out_channels, PIECE, PIECE)
    first_stage = getattr(detector, "rpn", detector)
    first_stage.head = narrowed(Towers(first_stage.head), channels, arguments.head).head
    images = draw_images(load_coco(arguments.data).train, arguments.images)
    with torch.no_grad():
        estimate_norms_(plain_part(detector), plain_inputs(detector, images))
    save(detector.eval(), arguments.out, extra=known_extra(detector))
    print(f"{count(plain_part(detector), shape).macs / before:.3f} of the multiply-adds")


if __name__ == "__main__":
    main()
