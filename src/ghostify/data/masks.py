"""Images with a class for each pixel: ``voc:DIR``, ``coco:DIR``."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from ghostify.data.coco import OUTSIDE, Annotations, places_held_out, read_annotations
from ghostify.data.images import IMAGENET_MEAN, IMAGENET_STD, Batch, formats, read_image
from ghostify.errors import InputError, spelled

IGNORED = 255  # class of a pixel that nothing is learnt of and nobody is asked about, as in VOC's files
BACKGROUND = "background"
VOC_CLASSES = (
    BACKGROUND,
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
PARTS = {"voc": ("train", "val"), "coco": ("train2017", "val2017")}
CROP_AREA = 0.5, 1.0  # share of a training image's area that a crop of it has


class Mask(Protocol):
    """The classes of an image's pixels, not read yet."""

    def read(self, height: int, width: int) -> NDArray[np.uint8]:
        """Classes ``[height, width]`` of an image of this size."""


@dataclass(frozen=True)
class MaskFile:
    """A mask in a file of its own, a PNG with colours by number.

    Args:
        path: The file.
        classes: Number of classes.
    """

    path: Path
    classes: int

    def read(self, height: int, width: int) -> NDArray[np.uint8]:
        try:
            with Image.open(self.path, formats=formats()) as image:
                mode, numbers = image.mode, np.array(image)
        except Exception as error:  # whatever Pillow's plugins raise of damaged files
            raise InputError(f"{self.path} cannot be decoded as a mask: mend or remove it") from error
        if mode not in ("P", "L"):
            raise InputError(f"{self.path} has colours ({mode}): expected the number of each pixel's class, as VOC has")
        if numbers.shape != (height, width):
            raise InputError(
                f"{self.path} is {numbers.shape[1]}×{numbers.shape[0]}, and its image {width}×{height}: "
                "expected one size"
            )
        odd = numbers[(numbers >= self.classes) & (numbers != IGNORED)]
        if odd.size:
            raise InputError(
                f"{self.path} has the class {odd.min()}: expected 0 to {self.classes - 1}, or {IGNORED} where none "
                f"counts; name others as voc:DIR?classes={BACKGROUND},…"
            )
        return numbers


@dataclass(frozen=True)
class MaskOfObjects:
    """A mask that COCO's objects make; where they overlap, the smaller one is seen.

    Args:
        image: Its file, for messages.
        size: Height and width that the annotations say.
        objects: Class and COCO's ``segmentation`` of each, the largest first; crowds have the class ``IGNORED``.
    """

    image: Path
    size: tuple[int, int]
    objects: tuple[tuple[int, Any], ...]

    def read(self, height: int, width: int) -> NDArray[np.uint8]:
        if (height, width) != self.size:
            raise InputError(
                f"{self.image} is {width}×{height}: its annotations and masks say {self.size[1]}×{self.size[0]}"
            )
        coco = import_module("pycocotools.mask")
        mask = np.zeros((height, width), np.uint8)
        for label, shape in self.objects:
            runs = coco.frPyObjects(shape, height, width)
            mask[coco.decode(coco.merge(runs) if isinstance(runs, list) else runs).astype(bool)] = label
        return mask


class MaskedImages(Dataset[Batch]):
    """Images and the classes of their pixels, decoded when asked for.

    Args:
        files: The images.
        masks: Their masks.
        change: Changes an image and its mask, alike, to one size.
    """

    def __init__(self, files: Sequence[Path], masks: Sequence[Mask], change: Callable[..., Any]) -> None:
        self.files, self.masks, self.change = files, masks, change

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Batch:
        """Pixels uint8 ``[1, 3, side, side]`` and classes int64 ``[1, side, side]``."""
        image = read_image(self.files[index])
        mask = tv_tensors.Mask(self.masks[index].read(image.height, image.width))
        pixels, classes = self.change(v2.functional.pil_to_tensor(image), mask)
        return pixels[None], classes.as_subclass(Tensor)[None].long()

    def only(self, places: Sequence[int], change: Callable[..., Any]) -> "MaskedImages":
        """Some of the images, under another change."""
        return MaskedImages([self.files[i] for i in places], [self.masks[i] for i in places], change)


@dataclass(frozen=True)
class MaskData:
    """A data set for semantic segmentation.

    Args:
        name: The reference that the user gave.
        train: Images to which weights are fitted.
        val: Training images held out for every choice; None where none are.
        test: Images for the final figure, which the files call val.
        classes: Names of the classes, in the order of their numbers.
        image_size: Height and width of the images, pixels.
        mean: Mean of each channel, in 0..1.
        std: Standard deviation of each channel, in 0..1.
    """

    name: str
    train: MaskedImages
    val: MaskedImages | None
    test: MaskedImages
    classes: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def identity(self) -> dict[str, Any]:
        """The facts that a training on it depends on, wherever its files are."""
        return {
            "training images": len(self.train),
            "held-out images": 0 if self.val is None else len(self.val),
            "classes": list(self.classes),
            "image size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The facts about these images that users of a network trained on them must know."""
        return {"mean": self.mean, "std": self.std, "image_size": self.image_size, "classes": self.classes}


@dataclass(frozen=True)
class Reference:
    """A data set with masks, as it is named.

    Args:
        name: All of it.
        source: "voc" or "coco".
        root: The folder.
        parts: Names of the training part and of the other one.
        classes: Names of the classes; None: all.
    """

    name: str
    source: str
    root: Path
    parts: tuple[str, str]
    classes: tuple[str, ...] | None


def load_masks(reference: str, *, image_size: int = 224, hold_out: float = 0.0) -> MaskData:
    """Open a data set with a class for each pixel.

    Args:
        reference: ``voc:DIR`` with JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/train.txt and val.txt;
            ``voc:DIR?classes=background,cat`` where the classes are not VOC's. ``coco:DIR`` with the layout of
            ``detect.load_coco``, whose objects give the masks; ``coco:DIR?classes=person,dog`` counts all others as
            background. Other names of the parts as ``?train=NAME&val=NAME``.
        image_size: Side of the squares that images become, pixels: for training a random part, for a score the middle.
        hold_out: Share of the training images, 0 to 0.5, held out as ``val``.
    Raises:
        InputError: If there is no such data set or something in it is wrong.
    """
    if not 0 <= hold_out <= 0.5:
        raise InputError(f"{spelled('hold_out')} is {hold_out}: expected a share from 0 to 0.5")
    if image_size < 1:
        raise InputError(f"{spelled('image_size')} is {image_size}: expected at least 1")
    named = read_reference(reference)
    classes, (train, test) = (voc_parts if named.source == "voc" else coco_parts)(named, plain(image_size))
    held = places_held_out(len(train), hold_out, named.name) if hold_out else []
    fit = [place for place in range(len(train)) if place not in held]
    return MaskData(
        name=reference,
        train=train.only(fit, at_random(image_size)),
        val=train.only(held, plain(image_size)) if held else None,
        test=test,
        classes=classes,
        image_size=image_size,
    )


def read_reference(reference: str) -> Reference:
    """Take a reference apart.

    Example:
        >>> read_reference("coco:data?classes=person").classes
        ('background', 'person')
    """
    source, _, place = reference.partition(":")
    root, _, query = place.partition("?")
    said = parse_qsl(query, keep_blank_values=True)
    names = dict(said)
    once = len(names) == len(said)
    if (
        source not in PARTS
        or not root
        or not once
        or not names.keys() <= {"train", "val", "classes"}
        or not all(names.values())
    ):
        raise InputError(
            f"there is no data set with masks {reference!r}: expected voc:DIR or coco:DIR, with "
            "?train=NAME&val=NAME&classes=NAME,NAME for what is named otherwise"
        )
    train, val = PARTS[source]
    classes = tuple(names["classes"].split(",")) if "classes" in names else None
    if classes is not None and source == "coco":
        classes = (BACKGROUND, *(name for name in classes if name != BACKGROUND))
    if classes is not None and (len(set(classes)) < max(2, len(classes)) or "" in classes):
        raise InputError(f"{reference} has the classes {', '.join(classes)}: expected two or more, each once")
    if classes is not None and len(classes) > IGNORED:
        raise InputError(f"{reference} has {len(classes)} classes: expected at most {IGNORED}")
    return Reference(reference, source, Path(root), (names.get("train", train), names.get("val", val)), classes)


def voc_parts(named: Reference, change: Callable[..., Any]) -> tuple[tuple[str, ...], list[MaskedImages]]:
    """The classes, and both parts of a data set in VOC's layout."""
    classes = named.classes or VOC_CLASSES
    parts = []
    for part in named.parts:
        listed = named.root / "ImageSets" / "Segmentation" / f"{part}.txt"
        try:
            names = listed.read_text().split()
        except (OSError, UnicodeDecodeError):
            raise InputError(
                f"{listed} is not there: expected VOC's layout, with a list of its images' names"
            ) from None
        if not names:
            raise InputError(f"{listed} names no images: expected at least one")
        files = [named.root / "JPEGImages" / f"{name}.jpg" for name in names]
        masks = [MaskFile(named.root / "SegmentationClass" / f"{name}.png", len(classes)) for name in names]
        for path in (*files, *(mask.path for mask in masks)):
            if not path.is_file():
                raise InputError(f"{path} is not there: {listed} names it")
        parts.append(MaskedImages(files, masks, change))
    return classes, parts


def coco_parts(named: Reference, change: Callable[..., Any]) -> tuple[tuple[str, ...], list[MaskedImages]]:
    """The classes, and both parts of a data set in COCO's layout."""
    files = [read_annotations(named.root, part) for part in named.parts]
    known = files[0].categories
    if known != files[1].categories:
        odd = sorted(set(known.items()) ^ set(files[1].categories.items()))[0]
        raise InputError(f"{files[0].path} and {files[1].path} have different categories, such as {odd[1]!r}")
    classes = named.classes or (BACKGROUND, *(name for name in known.values() if name != BACKGROUND))
    if len(classes) > IGNORED:
        raise InputError(f"{named.name} has {len(classes)} classes: expected at most {IGNORED}; name some by ?classes=")
    missing = [name for name in classes[1:] if name not in known.values()]
    if missing:
        raise InputError(
            f"{files[0].path} has no category {missing[0]!r}: expected some of {', '.join(known.values())}"
        )
    label_of = {id: classes.index(name) for id, name in known.items() if name in classes}
    return classes, [MaskedImages(*zip_masks(each, label_of), change) for each in files]


def zip_masks(annotations: Annotations, label_of: Mapping[int, int]) -> tuple[list[Path], list[Mask]]:
    """The files of images, and their masks.

    Args:
        label_of: Classes by category id; objects of others are background.
    """
    check_shapes(annotations)
    objects: defaultdict[int, list[tuple[float, int, Any]]] = defaultdict(list)
    for row in annotations.content["annotations"]:
        label = label_of.get(row["category_id"])
        if label is not None and row["segmentation"]:
            area = row["bbox"][2] * row["bbox"][3]
            objects[row["image_id"]].append((area, IGNORED if row.get("iscrowd") else label, row["segmentation"]))
    files, masks = [], list[Mask]()
    for image in annotations.content["images"]:
        found = sorted(objects[image["id"]], key=lambda each: -each[0])
        files.append(annotations.folder / image["file_name"])
        size = image["height"], image["width"]
        masks.append(MaskOfObjects(files[-1], size, tuple((label, shape) for _, label, shape in found)))
    return files, masks


def plain(size: int) -> Callable[..., Any]:
    """The middle square of an image and its mask."""
    return v2.Compose([v2.Resize(size), v2.CenterCrop(size)])


def at_random(size: int) -> Callable[..., Any]:
    """A random part of an image and its mask, mirrored at random."""
    return v2.Compose([v2.RandomResizedCrop(size, CROP_AREA), v2.RandomHorizontalFlip()])


def check_shapes(annotations: Annotations) -> None:
    """Refuse objects without a mask, and masks that are neither polygons nor counts of their image's pixels."""
    images = {row["id"]: row for row in annotations.content["images"]}
    for row in annotations.content["annotations"]:
        image, shape = images[row["image_id"]], row.get("segmentation")
        what = f"{annotations.path}: annotation {row['id']}"
        if shape is None:
            raise InputError(f"{what} has no 'segmentation': its boxes are for `ghostify detect`")
        if not (is_counted(shape, image) if isinstance(shape, dict) else are_polygons(shape, image)):
            raise InputError(
                f"{what} has a 'segmentation' that is no mask of its image, {image['width']}×{image['height']}: "
                "expected polygons [[x, y, x, y, x, y, …], …] in pixels, or "
                "{'size': [height, width], 'counts': [number, …]}"
            )


def is_counted(shape: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    """True if the lengths of runs make up the image."""
    counts, size = shape.get("counts"), [image["height"], image["width"]]
    if shape.get("size") != size or not isinstance(counts, list):
        return False
    return all(type(number) is int and number >= 0 for number in counts) and sum(counts) == size[0] * size[1]


def are_polygons(shape: Any, image: Mapping[str, Any]) -> bool:
    """True if these are corners in the image, three or more of each polygon."""
    if not isinstance(shape, list) or not all(isinstance(corners, list) for corners in shape):
        return False
    for corners in shape:
        if len(corners) < 6 or len(corners) % 2 or not all(type(place) in (int, float) for place in corners):
            return False
        for places, size in ((corners[::2], image["width"]), (corners[1::2], image["height"])):
            if not all(-OUTSIDE <= place <= size + OUTSIDE for place in places):
                return False
    return True
