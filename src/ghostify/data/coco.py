"""Images with boxes in COCO's layout: ``coco:DIR``, ``coco:DIR?train=NAME&val=NAME``."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF  # torchvision's own spelling

from ghostify.data.images import read_image
from ghostify.errors import InputError, spelled

# Boxes that people drew may end beyond the image by a rounding; one that ends farther out is another image's.
OUTSIDE = 1.0  # pixels
# A thinner box counts as one without area: nobody drew it, and its sides may be rounded to the same float32 when the
# image is resized. In an image of 16,384 pixels this is ten times the rounding error.
LEAST_SIDE = 0.01  # pixels
SCALES = (0.8, 1.25)  # between which training images are enlarged or shrunk
Target = dict[str, Tensor]
Example = tuple[Tensor, Target]


@dataclass(frozen=True)
class Annotations:
    """One annotation file, checked.

    Args:
        path: The file, for messages.
        folder: The folder of the images.
        content: As in the file; ``images``, ``annotations`` and ``categories`` are lists of objects.
    """

    path: Path
    folder: Path
    content: dict[str, Any]

    @property
    def categories(self) -> dict[int, str]:
        """Names by category id, in the order of the ids, which may have gaps."""
        return dict(sorted((row["id"], row["name"]) for row in self.content["categories"]))

    def of_images(self, images: Sequence[Mapping[str, Any]]) -> "Annotations":
        """The annotations of some of its images."""
        chosen = {image["id"] for image in images}
        rows = [row for row in self.content["annotations"] if row["image_id"] in chosen]
        return Annotations(self.path, self.folder, self.content | {"images": list(images), "annotations": rows})


@dataclass(frozen=True)
class Objects:
    """The objects in one image.

    As arrays: lists of lists of numbers would be copied into every worker, page by page.

    Args:
        boxes: ``[objects, 4]`` as x1, y1, x2, y2 in pixels.
        labels: ``[objects]``, from 1.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


class CocoImages(Dataset[Example]):
    """Images and their boxes, decoded when asked for.

    Each example is an image, uint8 ``[3, height, width]``, and its target: ``boxes`` ``[objects, 4]`` as x1, y1, x2, y2
    in pixels, ``labels`` ``[objects]`` from 1 in the order of the category ids, and ``image_id``. Crowds and boxes
    without area are left out of targets, as nothing can be learnt from them; scoring uses ``annotations``, which has
    them.

    Args:
        annotations: The images and their objects.
        change: Changes an image and its target; None leaves them as they are.
    """

    def __init__(self, annotations: Annotations, change: Callable[[Image.Image, Target], Any] | None = None) -> None:
        self.annotations, self.change = annotations, change
        self.images: list[dict[str, Any]] = annotations.content["images"]
        label_of = {category: index + 1 for index, category in enumerate(annotations.categories)}
        boxes: defaultdict[int, list[list[float]]] = defaultdict(list)
        labels: defaultdict[int, list[int]] = defaultdict(list)
        for row in annotations.content["annotations"]:
            x, y, width, height = row["bbox"]
            if not row.get("iscrowd"):
                boxes[row["image_id"]].append([x, y, x + width, y + height])
                labels[row["image_id"]].append(label_of[row["category_id"]])
        self.objects = [with_area(boxes[image["id"]], labels[image["id"]]) for image in self.images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        row = self.images[index]
        path = self.annotations.folder / row["file_name"]
        image = read_image(path)
        if image.size != (row["width"], row["height"]):
            raise InputError(
                f"{path} is {image.width}×{image.height}: {self.annotations.path} says {row['width']}×{row['height']}"
            )
        objects = self.objects[index]
        boxes = torch.from_numpy(objects.boxes.copy())
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(image.height, image.width)),
            "labels": torch.from_numpy(objects.labels.copy()),
            "image_id": torch.tensor(row["id"]),
        }
        if self.change is not None:
            image, target = self.change(image, target)
        return TF.pil_to_tensor(image), target | {"boxes": target["boxes"].as_subclass(Tensor)}


def with_area(boxes: list[list[float]], labels: list[int]) -> Objects:
    """The objects whose boxes have an area."""
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    chosen = (corners[:, 2:] - corners[:, :2] >= LEAST_SIDE).all(1)
    return Objects(corners[chosen], np.array(labels, np.int64)[chosen])


@dataclass(frozen=True)
class DetectionData:
    """A data set for detection.

    Args:
        name: The reference that the user gave.
        train: Images to which weights are fitted.
        val: Training images held out for every choice; None where none are.
        test: Images for the final figure, which the files call val.
        classes: Names of the categories, in the order of the labels 1, 2, ...
        category_ids: Their ids in the files, in the same order.
    """

    name: str
    train: CocoImages
    val: CocoImages | None
    test: CocoImages
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """The facts that a training on it depends on, wherever its files are."""
        return {
            "training images": len(self.train),
            "held-out images": 0 if self.val is None else len(self.val),
            "categories": list(self.category_ids),
        }

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The facts about these images that users of a detector trained on them must know."""
        return {"classes": self.classes, "category_ids": self.category_ids}


def load_coco(reference: str, *, hold_out: float = 0.0) -> DetectionData:
    """Open a data set with boxes.

    Args:
        reference: ``coco:DIR``, with ``annotations/instances_NAME.json`` and the images in ``NAME/``, where NAME is
            train2017 and val2017, or others after ``coco:DIR?train=NAME&val=NAME``.
        hold_out: Share of the training images, 0 to 0.5, held out as ``val``.
    Raises:
        InputError: If there is no such data set or something in it is wrong.
    """
    source, _, place = reference.partition(":")
    root, _, query = place.partition("?")
    splits = {"train": "train2017", "val": "val2017"}
    named = dict(parse_qsl(query, keep_blank_values=True))
    if source != "coco" or not root or not named.keys() <= splits.keys() or not all(named.values()):
        raise InputError(
            f"there is no data set with boxes {reference!r}: expected coco:DIR or coco:DIR?train=NAME&val=NAME"
        )
    if not 0 <= hold_out <= 0.5:
        raise InputError(f"{spelled('hold_out')} is {hold_out}: expected a share from 0 to 0.5")
    train, test = (read_annotations(Path(root), name) for name in (splits | named).values())
    if train.categories != test.categories:
        odd = sorted(set(train.categories.items()) ^ set(test.categories.items()))[0]
        raise InputError(f"{train.path} and {test.path} have different categories, such as {odd[1]!r} ({odd[0]})")
    fit, val = train, None
    if hold_out:
        images = train.content["images"]
        held = places_held_out(len(images), hold_out, str(train.path))
        fit = train.of_images([image for i, image in enumerate(images) if i not in held])
        val = train.of_images([images[i] for i in held])
    return DetectionData(
        name=reference,
        train=CocoImages(fit),
        val=CocoImages(val) if val is not None else None,
        test=CocoImages(test),
        classes=tuple(train.categories.values()),
        category_ids=tuple(train.categories),
    )


def places_held_out(images: int, share: float, name: str) -> list[int]:
    """Which of so many training images are held out: evenly spread, and a function of nothing else.

    Raises:
        InputError: If there is one image.
    """
    if images == 1:
        raise InputError(
            f"{spelled('hold_out')} is {share}, but {name} has one image: expected two or more, to learn from others"
        )
    number = max(1, round(share * images))
    return sorted({round((i + 0.5) * images / number) for i in range(number)})


def draw_images(
    images: CocoImages, number: int, seed: int = 0, *, batch_size: int = 16, device: str = "cpu"
) -> list[list[Tensor]]:
    """Some images as a detector takes them, without their boxes.

    Args:
        number: Number of images, drawn at random; all where there are fewer.
        seed: Seed of the draw.
    Returns:
        Batches of images ``[3, height, width]`` with values 0..1.
    Raises:
        InputError: If no image is asked for.
    """
    if number < 1:
        raise InputError(f"{spelled('images')} is {number}: expected at least 1")
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:number].tolist()
    drawn = [images[index][0].to(device).float() / 255 for index in chosen]
    return [drawn[start : start + batch_size] for start in range(0, len(drawn), batch_size)]


def changed_at_random(min_size: int, max_size: int) -> Callable[[Image.Image, Target], Any]:
    """Mirror, enlarge or shrink, and crop an image with its boxes, at random.

    The result has the size to which a detector would bring the image anyway, so that it does not undo the change.

    Args:
        min_size: Shorter side of the detector's images, pixels; less where the longer one would exceed ``max_size``.
        max_size: Largest longer side of the detector's images, pixels.
    """

    def change(image: Image.Image, target: Target) -> Any:
        scale = min(min_size / min(image.size), max_size / max(image.size))
        canvas = max(1, int(image.height * scale)), max(1, int(image.width * scale))
        return v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.ScaleJitter(canvas, SCALES),
                v2.RandomCrop(canvas, pad_if_needed=True),
                v2.SanitizeBoundingBoxes(min_size=1),
            ]
        )(image, target)

    return change


def read_annotations(root: Path, split: str) -> Annotations:
    """Read an annotation file and check it, entry against entry and against the folder of images."""
    path, folder = root / "annotations" / f"instances_{split}.json", root / split
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is not there: expected COCO's layout, with the images in {folder}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is no JSON file, or is cut short: {error}") from error
    if not folder.is_dir():
        raise InputError(f"{folder} is not there: expected the images of {path}")
    found = Annotations(path, folder, content)
    check_shape(path, content)
    check_images(found)
    check_objects(found)
    return found


def check_shape(path: Path, content: Any) -> None:
    """Refuse a file that is not COCO's instances."""
    fields = {
        "images": {"id": int, "file_name": str, "width": int, "height": int},
        "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": list},
        "categories": {"id": int, "name": str},
    }
    for key, expected in fields.items():
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise InputError(f"{path} has no list {key!r}: expected COCO's instances")
        for number, row in enumerate(rows):
            for name, kind in expected.items():
                if not isinstance(row, dict) or type(row.get(name)) is not kind:
                    raise InputError(f"{path}: {key}[{number}] has no {name!r} of type {kind.__name__}")
        refuse_twice(path, key, "id", rows)
    refuse_twice(path, "categories", "name", content["categories"])
    for key in ("images", "categories"):
        if not content[key]:
            raise InputError(f"{path} has no {key}: expected at least one")


def refuse_twice(path: Path, key: str, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse two rows of one list with the same value of a field."""
    twice = [value for value, times in Counter(row[name] for row in rows).items() if times > 1]
    if twice:
        raise InputError(f"{path}: two of {key} have the {name} {twice[0]!r}")


def check_images(annotations: Annotations) -> None:
    """Refuse images that are not in the folder."""
    path, folder = annotations.path, annotations.folder
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    for row in annotations.content["images"]:
        # A file that is reached through a link, or by another spelling of its path, is not in the listing.
        if row["file_name"] not in there and not (folder / row["file_name"]).is_file():
            raise InputError(f"{folder / row['file_name']} is not there: {path} names it")
        if row["width"] < 1 or row["height"] < 1:
            raise InputError(f"{path}: {row['file_name']} is {row['width']}×{row['height']}: expected at least 1×1")


def check_objects(annotations: Annotations) -> None:
    """Refuse objects of unknown images or categories, and boxes that are malformed or end outside their image."""
    path, content = annotations.path, annotations.content
    images, categories = {row["id"]: row for row in content["images"]}, annotations.categories
    for row in content["annotations"]:
        what = f"{path}: annotation {row['id']}"
        if row["image_id"] not in images:
            raise InputError(f"{what} is of image {row['image_id']}, which is not in the file")
        if row["category_id"] not in categories:
            known = ", ".join(map(str, list(categories)[:10]))
            raise InputError(f"{what} is of category {row['category_id']}: expected one of {known}")
        box, image = row["bbox"], images[row["image_id"]]
        if len(box) != 4 or not all(type(v) in (int, float) and math.isfinite(v) for v in box) or min(box[2:]) < 0:
            raise InputError(f"{what} has the box {box}: expected x, y, width, height in pixels")
        x, y, width, height = box
        beyond = max(-x, -y, x + width - image["width"], y + height - image["height"])
        if beyond > OUTSIDE:
            raise InputError(
                f"{what} has the box {box}, {beyond:g} pixels outside {image['file_name']} "
                f"({image['width']}×{image['height']})"
            )
