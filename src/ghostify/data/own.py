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


def data_from_batches(
    batches: Iterable[Any], model: nn.Module, name: str = "batches", *, test: Iterable[Any] | None = None
) -> ImageData:
    """Inputs that are normalised already, as a data set: a tenth is held out of train, another tenth is for testing.

    Args:
        batches: Inputs ``[batch, channels, height, width]``, or pairs of these and labels ``[batch]``, as of a
            ``DataLoader``. Without labels the network's own first answers are the right ones.
        model: The trained network.
        name: Their name in messages.
        test: Batches of the same kind that are for testing, instead of that tenth.
    Raises:
        InputError: If they are no such batches, or too few.
    """
    pixels, labels = gathered(batches, spelled("data"))
    if len(pixels) < FEWEST:
        raise InputError(f"{spelled('data')}: {len(pixels)} images: expected at least {FEWEST}")
    judges = None
    if test is not None:
        seen, known = gathered(test, spelled("test"))
        if seen.shape[1:] != pixels.shape[1:]:
            raise InputError(f"{spelled('test')}: {shapes_of(seen, pixels)}: expected those of {spelled('data')}")
        if (known is None) != (labels is None):
            raise InputError(f"{spelled('data')} and {spelled('test')}: expected labels in both, or in none")
        judges = MemoryImages(seen, answers(model, seen.split(AT_ONCE)) if known is None else known)
    if labels is None:
        labels = answers(model, pixels.split(AT_ONCE))
    channels = pixels.shape[1]
    scale = {"mean": (0.0,) * channels, "std": (1 / 255,) * channels}  # which leaves them as they are
    return split(pixels, labels, name, judges, **scale)


def gathered(batches: Iterable[Any], name: str) -> tuple[Tensor, Tensor | None]:
    """All inputs ``[images, channels, height, width]``, and their labels if they have some.

    Args:
        name: The batches' name in messages.
    """
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in batches:
        x, *rest = batch if isinstance(batch, tuple | list) else (batch,)
        whole = isinstance(x, Tensor) and x.ndim == 4 and x.is_floating_point()
        if not whole or (rest and not are_labels(rest[0], len(x))):
            raise InputError(
                f"{name}: expected batches of inputs [batch, channels, height, width] that are normalised, "
                "or pairs of these and labels [batch]"
            )
        if images and x.shape[1:] != images[0].shape[1:]:
            raise InputError(f"{name}: {shapes_of(images[0], x)}: expected one shape for all")
        if not bool(x.isfinite().all()):
            raise InputError(f"{name}: a batch has NaN or infinite numbers: expected finite ones")
        images.append(x.detach().cpu().float())
        labels.extend(rest[:1])
    if not images:
        raise InputError(f"{name}: no batches")
    if labels and len(labels) != len(images):
        raise InputError(f"{name}: {len(labels)} of {len(images)} batches with labels: expected all or none")
    return torch.cat(images), torch.cat(labels).long().cpu() if labels else None


def shapes_of(*batches: Tensor) -> str:
    """Their inputs' shapes, in words."""
    return "inputs of " + " and ".join(str(list(batch.shape[1:])) for batch in batches)


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


def split(pixels: Tensor, labels: Tensor, name: str, judges: MemoryImages | None = None, **scale: Any) -> ImageData:
    """Images in a fixed random order: a tenth is held out, and a tenth for testing where nothing else judges."""
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    tenth = max(1, len(pixels) // 10)
    if judges is None:
        judges = MemoryImages(pixels[order[:tenth]], labels[order[:tenth]])
        order = order[tenth:]
    val, train = order[:tenth], order[tenth:]
    return ImageData(
        name=name,
        train=MemoryImages(pixels[train], labels[train]),
        val=MemoryImages(pixels[val], labels[val]),
        test=judges,
        classes=tuple(map(str, range(1 + int(torch.cat([labels, judges.labels]).max())))),
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
