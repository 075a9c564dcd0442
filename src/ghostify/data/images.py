"""Labelled images, in memory or in a folder, as batches of uint8 tensors."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import DatasetFolder

from ghostify.errors import InputError

Batch = tuple[Tensor, Tensor]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MemoryImages(Dataset[Batch]):
    """Images decoded once and kept as uint8; a batch is one indexing, not a loop.

    Args:
        pixels: uint8 ``[images, 3, height, width]``.
        labels: int64 ``[images]``.
    """

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Pixels ``[len(indices), 3, height, width]`` and labels ``[len(indices)]``."""
        chosen = torch.as_tensor(indices)
        return self.pixels[chosen], self.labels[chosen]


class FolderImages(Dataset[Batch]):
    """Images of a folder with one subfolder per class, decoded when asked for.

    Args:
        folder: The classes and files.
        transform: Makes uint8 ``[3, height, width]`` of a PIL RGB image.
        indices: Places of the images to take among the folder's; None for all.
    """

    def __init__(
        self, folder: DatasetFolder, transform: Callable[[Image.Image], Tensor], indices: Sequence[int] | None = None
    ) -> None:
        self.transform = transform
        self.samples = [folder.samples[i] for i in (range(len(folder.samples)) if indices is None else indices)]
        self.labels = torch.tensor([label for _, label in self.samples])

    def changed(self, transform: Callable[[Image.Image], Tensor]) -> "FolderImages":
        """The same images under another transform."""
        other = copy.copy(self)
        other.transform = transform
        return other

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Batch:
        path, label = self.samples[index]
        return self.transform(read_image(path))[None], torch.tensor([label])


def count_images(dataset: Dataset[Batch]) -> int:
    """The number of images in a part of a data set."""
    return len(dataset)  # type: ignore[arg-type]  # ours have a length; the base class does not say so


def read_image(path: str | Path, *, upright: bool = False) -> Image.Image:
    """Decode an image of 8 or 16 bits a channel, the first frame of an animated one, to RGB.

    Args:
        path: The file.
        upright: Turn it as its EXIF data say, as a camera does that was held upright; those of data sets stay as they
            are stored, as everybody trains and tests on them.
    Raises:
        InputError: If the file cannot be decoded, or has 32 bits a channel.
    """
    try:
        with Image.open(path, formats=formats()) as image:
            mode, rgb = image.mode, in_8_bits(turned(image) if upright else image).convert("RGB")
    except Exception as error:  # whatever Pillow's plugins raise of damaged files
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        raise InputError(f"{path} cannot be decoded as an image: mend or remove it") from error
    if mode in ("I", "F"):  # nobody says which of these numbers is white
        raise InputError(f"{path} is decoded to numbers of 32 bits: expected 8 or 16 bits a channel, as of a PNG")
    return rgb


@cache
def formats() -> tuple[str, ...]:
    """Pillow's formats, but for PostScript: that is a program, which Ghostscript would run."""
    Image.init()
    return tuple(name for name in Image.ID if name != "EPS")


def turned(image: Image.Image) -> Image.Image:
    """The image as its EXIF data say that it is upright."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001  # whatever Pillow raises of damaged EXIF data: pixels without these are fine
        return image


def in_8_bits(image: Image.Image) -> Image.Image:
    """An image of 16 bits of grey by its upper 8 bits, where Pillow would clip it at 255; any other as it is."""
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")  # without this detour Pillow warns
    if not image.mode.startswith("I;16"):
        return image
    # Pillow gives NumPy the order of the two bytes.
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def join_batches(batch: Any) -> Batch:
    """One batch of what a dataset gave: already a batch, or a list of batches of one."""
    if isinstance(batch, tuple):
        return batch[0], batch[1]
    pixels, labels = zip(*batch, strict=True)
    return torch.cat(pixels), torch.cat(labels)


@dataclass(frozen=True)
class ImageData:
    """A data set for classification.

    Args:
        name: The reference that the user gave.
        train: Images to which weights are fitted.
        val: Training images held out for every choice; None where none are.
        test: Images for the final figure alone.
        classes: Names of the classes, in the order of the labels.
        image_size: Height and width of the images, pixels.
        crop_padding: Pixels of zeros around an image before a random crop; 0 where the data set crops by itself.
        flip: Mirror training images, which stay in their classes then.
        mean: Mean of each channel, in 0..1.
        std: Standard deviation of each channel, in 0..1.
    """

    name: str
    train: Dataset[Batch]
    val: Dataset[Batch] | None
    test: Dataset[Batch]
    classes: tuple[str, ...]
    image_size: int
    crop_padding: int = 4
    flip: bool = True
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def shape(self) -> tuple[int, ...]:
        """One image as the network gets it: channels, height, width."""
        if not count_images(self.test):
            return 3, self.image_size, self.image_size
        return tuple(self.test[0][0].shape[1:])

    @property
    def identity(self) -> dict[str, Any]:
        """The facts that a training on it depends on, wherever its files are."""
        return {
            "training images": count_images(self.train),
            "held-out images": 0 if self.val is None else count_images(self.val),
            "classes": len(self.classes),
            "image size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The facts about these images that users of a network trained on them must know."""
        return {"mean": self.mean, "std": self.std, "image_size": self.image_size, "classes": self.classes}
