"""Some images of a data set, as a network gets them."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ghostify.data.augment import normalise
from ghostify.data.images import Batch, ImageData, MemoryImages, count_images, join_batches
from ghostify.data.masks import MaskData
from ghostify.errors import InputError, spelled


def draw_inputs(
    data: ImageData | MaskData, images: int, seed: int = 0, *, batch_size: int = 64, workers: int = 0
) -> list[Tensor]:
    """Draw training images without labels, normalised.

    Args:
        images: Number of images, drawn from all classes at random; all where there are fewer.
        seed: Seed of the draw.
    Returns:
        Batches ``[batch, 3, height, width]``.
    Raises:
        InputError: If no image is asked for.
    """
    return [x for x, _ in draw(data.train, data, images, seed, batch_size=batch_size, workers=workers)]


def draw(
    dataset: Dataset[Batch],
    data: ImageData | MaskData,
    images: int,
    seed: int = 0,
    *,
    batch_size: int = 64,
    workers: int = 0,
) -> Iterator[Batch]:
    """Draw images of one part of a data set, normalised, with their labels or masks.

    Yields:
        Batches ``[batch, 3, height, width]``, and labels ``[batch]`` or classes of pixels ``[batch, height, width]``.
    Raises:
        InputError: If no image is asked for.
    """
    if images < 1:
        raise InputError(f"{spelled('images')} is {images}: expected at least 1")
    chosen = torch.randperm(count_images(dataset), generator=torch.Generator().manual_seed(seed))[:images].tolist()
    loader = DataLoader(
        Subset(dataset, chosen),
        batch_size,
        collate_fn=join_batches,
        num_workers=0 if isinstance(dataset, MemoryImages) else workers,
    )
    for pixels, labels in loader:
        yield normalise(pixels, data.mean, data.std), labels
