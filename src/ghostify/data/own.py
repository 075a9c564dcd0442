"""Images of the caller's own, with labels or without, as a data set."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.data.images import ImageData, MemoryImages
from ghostify.errors import InputError, first_sentence, spelled
from ghostify.modes import evaluating

FEWEST = 64  # images, of which four fifths calibrate
SPLIT_SEED = 0
AT_ONCE = 50  # images that the network answers
CROP_PADDING = 1 / 8  # of a side, around an image before a random crop


def data_from_batches(batches: Iterable[Any], model: nn.Module, name: str = "batches") -> ImageData:
    """Inputs that are normalised already, as a data set: a tenth is held out of train, another tenth is for testing.

    Args:
        batches: Inputs ``[batch, channels, height, width]``, or pairs of these and labels ``[batch]``, as of a
            ``DataLoader``. Without labels the network's own first answers are the right ones.
        model: The trained network.
        name: Their name in messages.
    Raises:
        InputError: If they are no such batches, or too few.
    """
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in batches:
        x, *rest = batch if isinstance(batch, tuple | list) else (batch,)
        whole = isinstance(x, Tensor) and x.ndim == 4 and x.is_floating_point()
        if not whole or (rest and not are_labels(rest[0], len(x))):
            raise InputError(
                f"{spelled('data')}: expected batches of inputs [batch, channels, height, width] that are normalised, "
                "or pairs of these and labels [batch]"
            )
        if images and x.shape[1:] != images[0].shape[1:]:
            shapes = " and ".join(str(list(one.shape[1:])) for one in (images[0], x))
            raise InputError(f"{spelled('data')}: inputs of {shapes}: expected one shape for all")
        if not bool(x.isfinite().all()):
            raise InputError(f"{spelled('data')}: a batch has NaN or infinite numbers: expected finite ones")
        images.append(x.detach().cpu().float())
        labels.extend(rest[:1])
    if sum(map(len, images)) < FEWEST or (labels and len(labels) != len(images)):
        raise InputError(
            f"{spelled('data')}: {sum(map(len, images))} images, {len(labels)} of {len(images)} batches with labels: "
            f"expected at least {FEWEST} images, all with labels or none"
        )
    channels = images[0].shape[1]
    scale = {"mean": (0.0,) * channels, "std": (1 / 255,) * channels}  # which leaves them as they are
    pixels = torch.cat(images)
    return split(pixels, torch.cat(labels).long().cpu() if labels else answers(model, images), name, **scale)


def are_labels(labels: Any, images: int) -> bool:
    """True for the number of a class for each image."""
    whole = isinstance(labels, Tensor) and not labels.is_floating_point() and not labels.is_complex()
    return whole and labels.shape == (images,) and bool((labels >= 0).all())


def data_from_photographs(
    pixels: Tensor, inputs: Iterable[Tensor], model: nn.Module, name: str, **scale: Any
) -> ImageData:
    """Photographs without classes as a data set: the network's first answers are the right ones.

    Args:
        pixels: uint8 ``[images, 3, height, width]``.
        inputs: The same as the network gets them, batch by batch.
        scale: ``mean`` and ``std`` of ``ImageData``.
    """
    if len(pixels) < FEWEST:
        raise InputError(f"{name} holds {len(pixels)} photographs: expected at least {FEWEST}")
    return split(pixels, answers(model, inputs), name, **scale)


def split(pixels: Tensor, labels: Tensor, name: str, **scale: Any) -> ImageData:
    """Images in a fixed random order: four fifths to train on, the rest held out and for testing in equal parts."""
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    tenth = max(1, len(pixels) // 10)
    test, val, train = order[:tenth], order[tenth : 2 * tenth], order[2 * tenth :]
    return ImageData(
        name=name,
        train=MemoryImages(pixels[train], labels[train]),
        val=MemoryImages(pixels[val], labels[val]),
        test=MemoryImages(pixels[test], labels[test]),
        classes=tuple(map(str, range(int(labels.max()) + 1))),
        image_size=max(pixels.shape[2:]),
        crop_padding=round(CROP_PADDING * min(pixels.shape[2:])),
        **scale,
    )


@torch.no_grad()
def answers(model: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """The network's first answer for each image.

    Raises:
        InputError: If it does not answer with classes.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    found = []
    with evaluating(model):
        for batch in batches:
            for x in batch.split(AT_ONCE):
                try:
                    logits = model(x.to(device))
                except Exception as error:  # whatever the network's own code raises
                    size = "×".join(map(str, x.shape[1:]))
                    raise InputError(
                        f"{type(model).__name__} cannot take inputs of {size}: {first_sentence(error)}"
                    ) from error
                if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
                    raise InputError(
                        f"{type(model).__name__} does not answer with one of several classes: expected a network that "
                        "classifies; plan and convert take others, too"
                    )
                found.append(logits.argmax(1).cpu())
    return torch.cat(found)
