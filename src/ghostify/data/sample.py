"""Some training images, as a network gets them."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ghostify.data.augment import normalise
from ghostify.data.images import ImageData, MemoryImages, join_batches
from ghostify.errors import InputError


def draw_inputs(data: ImageData, images: int, seed: int = 0, *, batch_size: int = 64, workers: int = 0) -> list[Tensor]:
    """Draw training images without labels, normalised.

    Args:
        images: How many, of all classes at random; all where there are fewer.
        seed: Of the draw.
    Returns:
        Batches ``[batch, 3, height, width]``.
    Raises:
        InputError: If no image is asked for.
    """
    if images < 1:
        raise InputError(f"images is {images}: expected at least 1")
    length = len(data.train)  # type: ignore[arg-type]  # ours have a length; the base class does not say so
    chosen = torch.randperm(length, generator=torch.Generator().manual_seed(seed))[:images].tolist()
    loader = DataLoader(
        Subset(data.train, chosen),
        batch_size,
        collate_fn=join_batches,
        num_workers=0 if isinstance(data.train, MemoryImages) else workers,
    )
    return [normalise(pixels, data.mean, data.std) for pixels, _ in loader]
