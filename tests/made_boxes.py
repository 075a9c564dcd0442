"""A data set with boxes, made up: bright rectangles on dark noise, in COCO's layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Ids with gaps, as COCO's are.
CATEGORIES = [{"id": 7, "name": "blue"}, {"id": 3, "name": "red"}]
CHANNEL = {3: 0, 7: 2}
HEIGHT, WIDTH = 48, 64


def make_split(root: Path, split: str, images: int, seed: int) -> Path:
    """Write images and their annotations; the annotation file.

    Image 1 has no box; in image 2 the first box is a crowd, and one more has no area.
    """
    rng = np.random.default_rng(seed)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES}
    (root / split).mkdir(parents=True)
    for number in range(1, images + 1):
        pixels = rng.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        name = f"{number:03}.png"
        content["images"].append({"id": 10 * number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        boxes = []
        for side, category in enumerate((3, 7) if number > 1 else ()):
            width, height = rng.integers(14, 24, 2).tolist()
            x, y = 32 * side + int(rng.integers(0, 32 - width)), int(rng.integers(0, HEIGHT - height))
            pixels[y : y + height, x : x + width, CHANNEL[category]] = 250
            boxes.append((category, [x, y, width, height], int(number == 2 and side == 0)))
        if number == 2:
            boxes.append((3, [5, 5, 0, 4], 0))
        for category, box, crowd in boxes:
            row = {"image_id": 10 * number, "category_id": category, "bbox": box, "iscrowd": crowd}
            row |= {"id": len(content["annotations"]) + 1, "area": box[2] * box[3]}
            content["annotations"].append(row)
        Image.fromarray(pixels).save(root / split / name)
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def make_boxes(root: Path, train: int = 12) -> str:
    """So many images to learn from and five to score on; what ``--data`` takes."""
    make_split(root, "train2017", train, 0)
    make_split(root, "val2017", 5, 1)
    return f"coco:{root}"
