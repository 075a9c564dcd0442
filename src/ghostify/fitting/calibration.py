"""Calibration images: checked, and cut into batches."""

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.errors import InputError, spelled
from ghostify.modes import evaluating

FEWEST_IMAGES = 32
FEW = 8  # images, on which residual sums are found
LARGEST_BATCH = 2**21  # numbers in it: a network's maps of one batch take far more memory than its images


def checked_batches(calibration: Iterable[Any], model: nn.Module) -> list[Tensor]:
    """Calibration images as a list; refused if they are of no use, or the network cannot take them."""
    batches = list(calibration)
    for batch in batches:
        if not isinstance(batch, Tensor) or batch.ndim != 4:
            raise InputError(
                f"{spelled('calibration')}: expected batches of inputs [batch, channels, height, width], without labels"
            )
        if batch.shape[1:] != batches[0].shape[1:]:
            shapes = " and ".join(str(tuple(b.shape[1:])) for b in (batches[0], batch))
            raise InputError(f"{spelled('calibration')}: batches of {shapes}: expected one shape for all")
        if not bool(batch.isfinite().all()):
            raise InputError(f"{spelled('calibration')}: a batch holds NaN or infinite numbers: expected finite ones")
    images = sum(len(batch) for batch in batches)
    if images < FEWEST_IMAGES:
        raise InputError(
            f"{spelled('calibration')}: {images} images: expected at least {FEWEST_IMAGES}, better some hundreds"
        )
    batches = [batch.clone() if batch.is_inference() else batch for batch in batches if len(batch)]
    first = batches[0][:1]
    if all(math.isclose(float((batch - first).abs().max()), 0.0) for batch in batches):
        raise InputError(
            f"{spelled('calibration')}: all images are the same: expected images such as the network will see"
        )
    try:
        with evaluating(model), torch.no_grad():
            output = model(first.clone())
    except Exception as error:  # whatever the network's own code raises
        kind = f"{first.dtype} {list(first.shape)} on {first.device}"
        raise InputError(
            f"{spelled('calibration')}: {type(model).__name__} cannot take the images, {kind}: {error}"
        ) from error
    if isinstance(output, Tensor) and bool(output.isnan().any()):
        raise InputError(
            f"{spelled('calibration')}: {type(model).__name__} gives NaN for the images: expected a trained network"
        )
    return batches


def first_images(batches: Sequence[Tensor], images: int) -> Tensor:
    """The first images of one size, or all where there are fewer, as one batch."""
    taken: list[Tensor] = []
    for batch in batches:
        if batch.shape[1:] != batches[0].shape[1:]:
            continue
        taken.append(batch[: images - sum(map(len, taken))])
        if sum(map(len, taken)) == images:
            break
    return torch.cat(taken)


def small_batches(batch: Tensor) -> tuple[Tensor, ...]:
    """A batch in parts that take little memory."""
    return batch.split(max(2, LARGEST_BATCH // batch[0].numel()))


def held_out(batches: Sequence[Tensor], every: int) -> tuple[list[Tensor], list[Tensor]]:
    """Batches without each so many-th image, and with these alone; twice all of them where there are fewer.

    Example:
        >>> [torch.cat(part).flatten().tolist() for part in held_out([torch.arange(3), torch.arange(3, 7)], 3)]
        [[0, 1, 3, 4, 6], [2, 5]]
    """
    left, out = [], []
    ends = accumulate(map(len, batches))
    for batch, end in zip(batches, ends, strict=True):
        chosen = torch.arange(end - len(batch), end, device=batch.device) % every == every - 1
        left.append(batch[~chosen])
        out.append(batch[chosen])
    if not any(map(len, out)):
        return list(batches), list(batches)
    return [batch for batch in left if len(batch)], [batch for batch in out if len(batch)]
