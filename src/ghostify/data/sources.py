"""Data sets by reference: ``digits``, ``cifar10:DIR``, ``npz:FILE``, ``imagefolder:DIR``, ``imagenet:DIR``."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F
from torchvision.datasets import CIFAR10, DatasetFolder
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from ghostify.data.images import FolderImages, ImageData, MemoryImages, read_image
from ghostify.errors import DAMAGED_ARCHIVE, InputError, spelled

SPLIT_SEED = 0  # splits are fixed: results of two runs must speak of the same images
MOST_CLASSES = 100_000  # that labels may number; ImageNet-21k has a fifth of that
LONGEST = 8  # times its shorter side, that of an image is resized; crops see no more than its middle square
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


def load_data(reference: str, *, image_size: int | None = None, hold_out: float = 0.0) -> ImageData:
    """Open a data set.

    Args:
        reference: ``digits`` (scikit-learn's handwritten digits, at 32×32), ``cifar10:DIR`` (the official
            batches, downloaded if absent), ``npz:FILE`` (Keras's x_train, y_train, x_test, y_test; uint8,
            channels last; the highest label of both parts says how many classes there are), ``imagefolder:DIR``
            (train/ and val/ with a folder per class, every image decoded once to see that it can be) or
            ``imagenet:DIR`` (the same layout, not decoded up front).
        image_size: Side to which images of a folder are brought, pixels; 224 where None.
        hold_out: Share of the training images, 0 to 0.5, held out as ``val``, stratified by class.
    Raises:
        InputError: If there is no such data set or something in it is wrong.
    Example:
        >>> data = load_data("digits", hold_out=0.1)
        >>> len(data.train), len(data.val), len(data.test), data.image_size
        (1077, 120, 600, 32)
    """
    if not 0 <= hold_out <= 0.5:
        raise InputError(f"{spelled('hold_out')} is {hold_out}: expected a share from 0 to 0.5")
    source, _, place = reference.partition(":")
    if source in ("coco", "voc"):
        raise InputError(
            f"there is no data set of labelled images at {reference!r}: its images have boxes or masks, for "
            "`ghostify detect`, `ghostify segment` and a detector's ghost"
        )
    if source not in (*SOURCES, *FOLDERS) or bool(place) == (source == "digits"):
        raise InputError(
            f"there is no data set {reference!r}: "
            "expected digits, cifar10:DIR, npz:FILE, imagefolder:DIR or imagenet:DIR"
        )
    if source in FOLDERS:
        return folder_data(reference, Path(place), image_size or 224, hold_out, verify=source == "imagefolder")
    if image_size is not None:
        raise InputError(f"{spelled('image_size')} is for imagefolder: and imagenet:, {reference} has its own")
    return memory_data(reference, SOURCES[source](place), hold_out, flip=source != "digits")


@dataclass(frozen=True)
class Arrays:
    """A data set in memory.

    Args:
        x_train: uint8 ``[images, height, width, 3]``.
        y_train: Labels, int64 ``[images]``.
        x_test: As ``x_train``.
        y_test: As ``y_train``.
        class_names: Names in the order of the labels; None where the source has none.
    """

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]
    class_names: Sequence[str] | None = None


def digits(_: str) -> Arrays:
    """1,797 handwritten digits of 8×8 pixels in 17 grey levels, enlarged to 32×32; a third is for testing."""
    bunch = load_digits()
    grey = torch.from_numpy(bunch.images).float().unsqueeze(1) * (255 / 16)
    large = F.interpolate(grey, size=(32, 32), mode="bilinear").round().to(torch.uint8)
    pixels = large.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    train, test = train_test_split(
        np.arange(len(pixels)), test_size=600, stratify=bunch.target, random_state=SPLIT_SEED
    )
    names = [str(digit) for digit in range(10)]
    return Arrays(pixels[train], bunch.target[train], pixels[test], bunch.target[test], names)


def cifar10(place: str) -> Arrays:
    try:
        train, test = (CIFAR10(place, train=part, download=True) for part in (True, False))
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"cifar10:{place}: the official batches are not there and could not be downloaded ({error})"
        ) from error
    return Arrays(train.data, np.array(train.targets), test.data, np.array(test.targets), train.classes)


def npz(place: str) -> Arrays:
    try:
        with np.load(place, allow_pickle=False) as archive:
            missing = [key for key in NPZ_KEYS if key not in archive]
            if missing:
                raise InputError(f"{place} has no {', '.join(missing)}: expected the arrays {', '.join(NPZ_KEYS)}")
            x_train, y_train, x_test, y_test = (archive[key] for key in NPZ_KEYS)
    except FileNotFoundError:
        raise InputError(f"{place} is not there: expected an .npz file") from None
    except (*DAMAGED_ARCHIVE, ValueError, OSError, EOFError, AttributeError, TypeError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{place} is no readable .npz file of plain arrays ({error})") from error
    return Arrays(
        checked_pixels(f"{place}: x_train", x_train),
        checked_labels(f"{place}: y_train", y_train),
        checked_pixels(f"{place}: x_test", x_test),
        checked_labels(f"{place}: y_test", y_test),
    )


def checked_pixels(what: str, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or not pixels.size:
        found = f"{pixels.dtype} of shape {pixels.shape}"
        raise InputError(f"{what} is {found}: expected uint8 [images, height, width, 3 or 1]")
    return np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels


def checked_labels(what: str, labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Labels as int64 ``[images]``; Keras's have a second dimension of one."""
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2) or labels.shape[1:] not in ((), (1,)):
        found = f"{labels.dtype} of shape {labels.shape}"
        raise InputError(f"{what} is {found}: expected whole numbers [images] or [images, 1], the class of each")
    if labels.size and not 0 <= labels.min() <= labels.max() < MOST_CLASSES:
        raise InputError(
            f"{what} runs from {labels.min()} to {labels.max()}: expected classes from 0 on, below {MOST_CLASSES}"
        )
    return labels.reshape(-1).astype(np.int64)


def memory_data(name: str, arrays: Arrays, hold_out: float, flip: bool) -> ImageData:
    """Check the arrays against each other and make tensors of them."""
    x_train, y_train, x_test, y_test = arrays.x_train, arrays.y_train, arrays.x_test, arrays.y_test
    highest = max(int(labels.max(initial=0)) for labels in (y_train, y_test))
    classes = tuple(arrays.class_names or map(str, range(highest + 1)))
    for part, pixels, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(pixels) != len(labels):
            raise InputError(f"{name}: {len(pixels)} {part} images but {len(labels)} labels")
    if x_train.shape[1] != x_train.shape[2] or x_train.shape[1:] != x_test.shape[1:]:
        raise InputError(f"{name}: images are {x_train.shape[1:3]} and {x_test.shape[1:3]}: expected one square size")
    split = held_out(name, y_train, hold_out)
    return ImageData(
        name=name,
        train=memory_images(x_train[split.fit], y_train[split.fit]),
        val=memory_images(x_train[split.val], y_train[split.val]) if len(split.val) else None,
        test=memory_images(x_test, y_test),
        classes=classes,
        image_size=x_train.shape[1],
        flip=flip,
    )


def memory_images(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> MemoryImages:
    channels_first = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return MemoryImages(channels_first, torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64)))


@dataclass(frozen=True)
class Split:
    """Places of the training images to which weights are fitted, and of those that are held out."""

    fit: NDArray[np.int64]
    val: NDArray[np.int64]


def held_out(name: str, labels: NDArray[np.int64], share: float) -> Split:
    """Hold out a share of the training images, stratified by class."""
    everything = np.arange(len(labels))
    if share == 0:
        return Split(everything, everything[:0])
    try:
        fit, val = train_test_split(everything, test_size=share, stratify=labels, random_state=SPLIT_SEED)
    except ValueError as error:
        raise InputError(f"{name}: a share of {share} cannot be held out of {len(labels)} images: {error}") from error
    return Split(np.sort(fit), np.sort(val))


def folder_data(name: str, root: Path, size: int, hold_out: float, verify: bool) -> ImageData:
    train, test = (open_folder(root / part) for part in ("train", "val"))
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise InputError(f"{root}: train/ and val/ have different classes, such as {', '.join(odd[:3])}")
    if verify:
        with ThreadPoolExecutor() as pool:
            list(pool.map(check_image, [path for path, _ in train.samples + test.samples]))
    plain = plain_crop(size, size)
    split = held_out(name, np.array(train.targets), hold_out)
    return ImageData(
        name=name,
        train=FolderImages(train, random_crop(size), split.fit.tolist()),
        val=FolderImages(train, plain, split.val.tolist()) if len(split.val) else None,
        test=FolderImages(test, plain),
        classes=tuple(train.classes),
        image_size=size,
        crop_padding=0,
        flip=False,
    )


def check_image(path: str) -> None:
    """Refuse an image that cannot be decoded. Nothing is kept of it: a whole folder would fill the memory."""
    read_image(path)


def random_crop(size: int, *changes: v2.Transform) -> Callable[[Image.Image], Tensor]:
    """A function from a PIL image to a random part of it, mirrored at random: uint8 ``[3, size, size]``.

    As Szegedy et al. 2015, arXiv:1409.4842, section 6, train.
    """
    return to_pixels(v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *changes)


def augmented(data: ImageData, color_jitter: float, rand_augment: bool) -> ImageData:
    """The same data set with more random changes to its training images than their crop.

    Args:
        color_jitter: Largest random change of brightness, contrast and saturation, 0..1.
        rand_augment: Make two of RandAugment's changes to each image (Cubuk et al. 2019, arXiv:1909.13719).
    Raises:
        InputError: If a change is asked for and the images are in memory.
    """
    if not color_jitter and not rand_augment:
        return data
    if not isinstance(data.train, FolderImages):
        raise InputError(
            f"{spelled('color_jitter')} and {spelled('rand_augment')} are for images of a folder: "
            f"{data.name} is in memory"
        )
    changes: list[v2.Transform] = [v2.RandAugment()] if rand_augment else []
    if color_jitter:
        changes.append(v2.ColorJitter(color_jitter, color_jitter, color_jitter))
    return replace(data, train=data.train.changed(random_crop(data.image_size, *changes)))


def open_folder(path: Path) -> DatasetFolder:
    if not path.is_dir():
        raise InputError(f"{path} is not there: expected train/ and val/ with a folder of images per class")
    try:
        return DatasetFolder(os.fspath(path), read_image, extensions=(*IMG_EXTENSIONS, ".gif"))
    except (FileNotFoundError, OSError) as error:
        raise InputError(f"{path}: {error}") from error


def plain_crop(height: int, width: int) -> Callable[[Image.Image], Tensor]:
    """A function from a PIL image to its middle: uint8 ``[3, height, width]``."""
    # The usual margin: an image is brought to 256 for a crop of 224.
    return to_pixels(without_ends, v2.Resize(round(max(height, width) * 256 / 224)), v2.CenterCrop((height, width)))


def without_ends(image: Image.Image) -> Image.Image:
    """The middle of an image that is far longer than any crop of it: resized as a whole it may fill the memory."""
    longest = LONGEST * min(image.size)
    left, top = (max(0, (size - longest) // 2) for size in image.size)
    return image.crop((left, top, image.width - left, image.height - top)) if left or top else image


def to_pixels(*steps: Callable[..., object]) -> Callable[[Image.Image], Tensor]:
    return v2.Compose([*steps, v2.PILToTensor()])


FOLDERS = frozenset({"imagefolder", "imagenet"})
SOURCES: dict[str, Callable[[str], Arrays]] = {"digits": digits, "cifar10": cifar10, "npz": npz}
