"""Change the parts of a detector, each as a plain network."""

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.ssd import SSD

from ghostify.changes import AnyPlan
from ghostify.changes.ratio import GhostRatio
from ghostify.errors import InputError, spelled
from ghostify.measure.count import count
from ghostify.modes import evaluating
from ghostify.plain_part import PARTS, Detector, PlainPart, input_shape_of, parts_of
from ghostify.transform.convert import ConvertedLayer, convert_network
from ghostify.transform.reconstruct import Reconstruction

# Side of the pieces of maps on which a head is calibrated, and how many of each map.
PIECE, PIECES = 8, 4


class Pyramid(nn.Module):
    """Backbone and feature pyramid, under the detector's own names."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Normalised images ``[batch, 3, height, width]`` to the maps of each level, finest first."""
        found = self.backbone(x)
        return (found,) if isinstance(found, Tensor) else tuple(found.values())


class LevelHead(nn.Module):
    """A head for one level of the pyramid; the detector runs it once per level, with the same weights.

    Args:
        detector: The detector; the names of its layers stay.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        if hasattr(detector, "head"):
            self.head = detector.head
        else:
            self.rpn = nn.ModuleDict({"head": detector.rpn.head})

    def forward(self, maps: Tensor) -> tuple[Tensor, ...]:
        """Maps of one level ``[batch, channels, height, width]`` to the head's outputs."""
        if "head" in self._modules:
            return tuple(self.head([maps]).values())
        logits, offsets = self.rpn["head"]([maps])
        return *logits, *offsets


def convert_detector(
    detector: Detector,
    asked: GhostRatio | Mapping[str, AnyPlan],
    parts: Sequence[str],
    skip: Sequence[str],
    calibration: Iterable[Any] | None,
    input_shape: Sequence[int] | None,
    how: Reconstruction,
) -> tuple[Detector, list[ConvertedLayer]]:
    """Copy a detector with the convolutions of some parts changed.

    Args:
        asked: Ghosts of one ratio, or a plan of the plain part.
        parts: Some of "backbone", "fpn" and "head", for ghosts of one ratio; the head of a Faster R-CNN is the one that
            proposes regions.
        skip: Names of the detector's modules, or patterns on them.
        calibration: Batches of images with values 0..1: ``[batch, 3, height, width]``, or lists of
            ``[3, height, width]``.
        input_shape: One input's of the plain part, for the multiply-adds per layer; None for the largest.
        how: Settings of the reconstruction.
    Returns:
        The copy, and one row per convolution.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise InputError(f"{spelled('parts')} is {list(parts)}: expected one or more of {', '.join(PARTS)}")
    changed = copy.deepcopy(detector)
    inputs = None if calibration is None else plain_inputs(detector, calibration)
    shape = tuple(input_shape or input_shape_of(detector))
    names = parts_of(detector)
    planned = not isinstance(asked, GhostRatio)
    if planned or isinstance(detector, SSD):  # whose head has other layers for each level
        whole = PlainPart(changed)
        # A plan itself leaves out layers.
        others = [] if planned else [names[part] for part in names if part not in parts]
        conversion = convert_network(
            whole, asked, skip=named_in(whole, skip) + others, input_shape=shape, calibration=inputs, how=how
        )
        changed.backbone = conversion.model.backbone
        put_head_(changed, conversion.model)
        return changed, list(conversion.layers)
    rows: dict[str, ConvertedLayer] = {}
    if set(parts) - {"head"}:
        others = [names[part] for part in names.keys() & {"backbone", "fpn"} - set(parts)]
        pyramid = Pyramid(changed.backbone)
        left = named_in(pyramid, skip) + others
        conversion = convert_network(pyramid, asked, skip=left, input_shape=shape, calibration=inputs, how=how)
        changed.backbone = conversion.model.backbone
        rows |= {row.name: row for row in conversion.layers}
    if "head" in parts:
        level = LevelHead(changed)
        pieces = None if inputs is None else pieces_of_maps(Pyramid(detector.backbone), inputs, how.seed)
        piece = (changed.backbone.out_channels, PIECE, PIECE)
        left = named_in(level, skip)
        conversion = convert_network(level, asked, skip=left, input_shape=piece, calibration=pieces, how=how)
        put_head_(changed, conversion.model)
        rows |= {row.name: row for row in conversion.layers}
    return changed, with_macs(rows, detector, changed, shape)


def put_head_(detector: Detector, changed: nn.Module) -> None:
    """Give a detector the head of its changed plain part."""
    if hasattr(detector, "head"):
        detector.head = changed.head
    else:
        detector.rpn.head = changed.get_submodule("rpn.head")


def with_macs(
    rows: dict[str, ConvertedLayer], detector: Detector, ghost: Detector, shape: Sequence[int]
) -> list[ConvertedLayer]:
    """The rows, with the multiply-adds for a whole image: a head ran on pieces only."""
    before, after = count(detector, shape), count(ghost, shape)
    return [
        dataclasses.replace(row, macs_before=before.of(name)[0], macs_after=after.of(name)[0])
        for name, row in rows.items()
    ]


def named_in(part: nn.Module, skip: Sequence[str]) -> list[str]:
    """The names and patterns that may be about a part: it would refuse the others."""
    heads = tuple(name for name, _ in part.named_children())
    return [pattern for pattern in skip if not pattern.partition(".")[0].isidentifier() or pattern.startswith(heads)]


@torch.no_grad()
def plain_inputs(detector: Detector, batches: Iterable[Any]) -> list[Tensor]:
    """Inputs of a detector's plain part: images normalised, resized, and padded to one size.

    Args:
        batches: Batches of images with values 0..1: ``[batch, 3, height, width]``, or lists of ``[3, height, width]``.
    Raises:
        InputError: If they are no such images.
    """
    inputs = []
    for batch in batches:
        images = list(batch)
        for image in images:
            if not isinstance(image, Tensor) or image.ndim != 3 or len(image) != 3 or not image.is_floating_point():
                raise InputError(
                    f"{spelled('calibration')}: expected batches of images [3, height, width] with values 0..1"
                )
        transform = detector.transform
        with evaluating(transform):
            inputs.append(transform(images)[0].tensors)
    height, width = (max(x.shape[side] for x in inputs) for side in (2, 3)) if inputs else (0, 0)
    return [F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2])) for x in inputs]


@torch.no_grad()
def pieces_of_maps(pyramid: Pyramid, inputs: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Square pieces at random places of the levels that are large enough, all of one size.

    Returns:
        Batches ``[batch * PIECES, channels, PIECE, PIECE]``.
    """
    generator = torch.Generator().manual_seed(seed)
    pieces = []
    with evaluating(pyramid):
        for x in inputs:
            for maps in pyramid(x):
                height, width = maps.shape[2:]
                if min(height, width) < PIECE:
                    continue
                cut = []
                for _ in range(PIECES):
                    top, left = (
                        int(torch.randint(side - PIECE + 1, (), generator=generator, device="cpu"))
                        for side in maps.shape[2:]
                    )
                    cut.append(maps[:, :, top : top + PIECE, left : left + PIECE])
                pieces.append(torch.cat(cut))
    if not pieces:
        raise InputError(f"{spelled('calibration')}: no map is {PIECE} pixels high and wide: expected larger images")
    return pieces
