"""Bright rectangles on noise with a class for each pixel, in VOC's layout and in COCO's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("background", "bar", "block")
PARTS = {"train": 10, "val": 4}
HEIGHT, WIDTH = 40, 56


def make_masks(root: Path, train: int = PARTS["train"]) -> tuple[str, str]:
    """Write the same images twice, so many to learn from, and return both references."""
    random = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation", "annotations", *PARTS):
        (root / folder).mkdir(parents=True)
    for part, number in (PARTS | {"train": train}).items():
        names = [f"{part}{index}" for index in range(number)]
        (root / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(names) + "\n")
        content: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 3, "name": "bar"}, {"id": 7, "name": "block"}],
        }
        for index, name in enumerate(names):
            pixels = random.integers(0, 60, (HEIGHT, WIDTH, 3), np.uint8)
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            for label, (x, y, width, height) in (
                (1, (4, int(random.integers(2, 10)), 44, 6)),
                (2, (int(random.integers(4, 30)), 22, 14, 14)),
            ):
                pixels[y : y + height, x : x + width, label] += 150
                mask[y : y + height, x : x + width] = label
                corners = [x, y, x + width, y, x + width, y + height, x, y + height]
                content["annotations"].append(
                    {
                        "id": 2 * index + label,
                        "image_id": index,
                        "category_id": (3, 7)[label - 1],
                        "bbox": [x, y, width, height],
                        "segmentation": [corners],
                        "iscrowd": 0,
                    }
                )
            content["images"].append({"id": index, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT})
            image = Image.fromarray(pixels)
            for file in (root / "JPEGImages" / f"{name}.jpg", root / part / f"{name}.jpg"):
                image.save(file, quality=95)
            Image.fromarray(mask).save(root / "SegmentationClass" / f"{name}.png")
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return f"voc:{root}?classes={','.join(CLASSES)}", f"coco:{root}?train=train&val=val"
