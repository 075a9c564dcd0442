"""Random crops, mirror images and normalisation of whole batches.

By hand, because the libraries' transforms draw one crop per batch or loop over its images: on 32×32
images one indexing is what keeps data under a tenth of a training step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def random_crop_flip(pixels: Tensor, padding: int, flip: bool, generator: torch.Generator | None = None) -> Tensor:
    """Shift each image by up to ``padding`` pixels and mirror half of the images, at random.

    Args:
        pixels: uint8 ``[batch, channels, height, width]``.
        padding: Zeros around each image before its crop.
        flip: Mirror images, each with a chance of one in two.
        generator: Source of randomness; None is PyTorch's default one.
    Returns:
        The same shape and type.
    Example:
        >>> torch.equal(random_crop_flip(torch.ones(2, 3, 4, 4), 0, flip=True), torch.ones(2, 3, 4, 4))
        True
    """
    batch, channels, height, width = pixels.shape
    device = pixels.device
    # Drawn on the CPU, so that a seed means the same on every device.
    down, right = torch.randint(0, 2 * padding + 1, (2, batch, 1), generator=generator, device="cpu").to(device)
    mirrored = (torch.rand(batch, 1, generator=generator, device="cpu") < 0.5 * flip).to(device)
    rows = down + torch.arange(height, device=device)
    columns = right + torch.arange(width, device=device)
    columns = torch.where(mirrored, columns.flip(1), columns)
    image = torch.arange(batch, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[:, None, None]
    return F.pad(pixels, (padding,) * 4)[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 ``[batch, channels, height, width]`` to float32 with the given mean and deviation in 0..1.

    Example:
        >>> normalise(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8), [0.5], [0.25]).item()
        2.0
    """
    scale = 255 * torch.tensor(std, device=pixels.device)[:, None, None]
    shift = 255 * torch.tensor(mean, device=pixels.device)[:, None, None]
    return (pixels.float() - shift) / scale
