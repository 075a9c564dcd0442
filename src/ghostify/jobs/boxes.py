"""Boxes that a detector finds in the user's own images, drawn."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import functional as TF
from torchvision.utils import draw_bounding_boxes

from ghostify.atomic import replacing
from ghostify.data.images import read_image
from ghostify.errors import InputError, spelled
from ghostify.jobs.coco_score import Found
from ghostify.jobs.detect import objects_in
from ghostify.plain_part import is_detector

DETECTIONS = "detections.json"
# Told apart also by who sees few colours (Okabe and Ito 2008).
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


@dataclass(frozen=True)
class Picture:
    """An image and what is in it.

    Args:
        path: The image's file.
        drawing: The file that the image with its boxes goes to; None where nothing is drawn.
        objects: Label from 1, name, score 0..1 and box as x1, y1, x2, y2 in pixels, the surest first.
    """

    path: Path
    drawing: Path | None
    objects: tuple[tuple[int, str, float, tuple[float, ...]], ...]

    @property
    def row(self) -> dict[str, Any]:
        """As JSON values."""
        objects = [{"label": name, "score": score, "box": list(box)} for _, name, score, box in self.objects]
        return {"image": str(self.path), "objects": objects}

    @property
    def summary(self) -> str:
        """How many of what, such as "3 RBC, 1 WBC"."""
        found = Counter(name for _, name, _, _ in self.objects).most_common()
        return ", ".join(f"{number} {name}" for name, number in found) or "nothing"


def find_in_files(
    model: nn.Module,
    paths: Sequence[Path],
    classes: Sequence[str] | None,
    out: Path | None,
    *,
    least_score: float,
    device: str = "cpu",
) -> list[Picture]:
    """Look for objects in image files, and in those of folders.

    Args:
        classes: Names of the categories; None for their numbers.
        out: Folder for what is to be drawn; nothing is written yet. None where nothing is to be.
        least_score: Least score of an object that is reported.
    Raises:
        InputError: If the network is no detector, a path leads to no image, or a drawing would take an image's place.
    """
    if not is_detector(model):
        raise InputError(f"{type(model).__name__} is no detector: expected one such as retinanet_ghostnet_110_fpn")
    pictures: list[Picture] = []
    files = image_files(paths)
    drawings = [None] * len(files) if out is None else drawings_of(files, out)
    for path, drawing in zip(files, drawings, strict=True):
        image = TF.pil_to_tensor(read_image(path))
        found = [
            (label, classes[label - 1] if classes and label <= len(classes) else str(label), score, tuple(box))
            for label, score, box in objects_in(model, image, device, str(path))
            if score >= least_score
        ]
        pictures.append(Picture(path, drawing, tuple(sorted(found, key=lambda row: -row[2]))))
    return pictures


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The files among the paths, and the images in the folders among them."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in IMG_EXTENSIONS)
            if not inside:
                raise InputError(f"{path} holds no images: expected files such as photograph.jpg")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"{path} is not there: expected an image, or a folder of images")
    return files


def drawings_of(files: Sequence[Path], out: Path) -> list[Path]:
    """The file that each image's drawing goes to; refused where that is an image itself."""
    taken: set[str] = set()
    drawings = [out / unused_name(file, taken) for file in files]
    images = {file.resolve() for file in files}
    for drawing in drawings:
        if drawing.resolve() in images:
            raise InputError(f"{drawing} is one of the images: choose another {spelled('out')}")
    return drawings


def unused_name(path: Path, taken: set[str]) -> str:
    """The image's own name as PNG, with a number where two folders have the same."""
    name, number = f"{path.stem}.png", 1
    while name in taken:
        number += 1
        name = f"{path.stem}_{number}.png"
    taken.add(name)
    return name


def write_drawings(out: Path, pictures: Sequence[Picture]) -> None:
    """Write the images with their boxes, and what is in them as ``detections.json``; each file is replaced whole."""
    for picture in pictures:
        if picture.drawing is not None:
            with replacing(picture.drawing) as temporary:
                draw_boxes(picture).save(temporary, format="PNG")
    with replacing(out / DETECTIONS) as temporary:
        temporary.write_text(json.dumps({"images": [picture.row for picture in pictures]}, indent=1) + "\n")


def write_found(out: Path, found: Sequence[Found]) -> None:
    """Write COCO's result rows as ``detections.json``, replaced whole."""
    with replacing(out / DETECTIONS) as temporary:
        temporary.write_text(json.dumps(list(found)) + "\n")


def draw_boxes(picture: Picture) -> Image.Image:
    """The image with its objects' boxes, names and scores."""
    image = TF.pil_to_tensor(read_image(picture.path))
    if not picture.objects:
        return TF.to_pil_image(image)
    labels, names, scores, boxes = zip(*picture.objects, strict=True)
    colours = [COLOURS[(label - 1) % len(COLOURS)] for label in labels]
    drawn = draw_bounding_boxes(
        image,
        torch.tensor(boxes),
        labels=[f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)],
        colors=colours,
        label_colors=["black"] * len(labels),
        label_background_colors=colours,
        fill_labels=True,
        width=max(1, round(max(image.shape[1:]) / 320)),
    )
    return TF.to_pil_image(drawn)
