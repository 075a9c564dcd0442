"""Images prepared as a network wants them: as its file says, else as it was designed."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from torch import nn

from ghostify.data.coco import DetectionData
from ghostify.data.images import ImageData
from ghostify.data.masks import MaskData, load_masks
from ghostify.data.sources import FOLDERS, load_data
from ghostify.errors import InputError, spelled
from ghostify.inference.file_network import FileNetwork
from ghostify.models.registry import designed_channels, known_origin
from ghostify.needed import refuse_missing
from ghostify.network_file import channels_of, known_extra

Channels = tuple[float, ...] | None


def name_of(model: nn.Module) -> str:
    """The name by which a network was built, else its class's; of an exported file its path."""
    if isinstance(model, FileNetwork):
        return str(model.path)
    origin = known_origin(model)
    return type(model).__name__ if origin is None else origin.name


def kept_beside(model: nn.Module) -> dict[str, Any]:
    """The facts about its images that lie beside a network's file, exported or saved."""
    return dict(model.about.get("preprocessing", {})) if isinstance(model, FileNetwork) else known_extra(model)


def designed_shape(model: nn.Module) -> tuple[int, ...] | None:
    """One input without batch, as the network's file says, else as it was designed; None where nobody says."""
    if isinstance(model, FileNetwork):
        return model.input_shape
    side = kept_beside(model).get("image_size")
    if isinstance(side, int):
        return 3, side, side
    origin = known_origin(model)
    return None if origin is None else origin.input_shape


def channels_for(model: nn.Module, usual: Any, mean: Channels, std: Channels, *, photographs: bool) -> dict[str, Any]:
    """``mean`` and ``std`` as asked for, else as the network's file says, else those of ``usual``.

    Args:
        photographs: Before ``usual``, take those of a library's own weights of the network.
    """
    known: dict[str, Any] = {}
    if not (mean and std):
        known = channels_of(name_of(model), kept_beside(model))
        origin = None if isinstance(model, FileNetwork) else known_origin(model)
        if photographs and origin is not None:
            known = designed_channels(origin.name) | known
    found = {"mean": mean or known.get("mean", usual.mean), "std": std or known.get("std", usual.std)}
    for name, values in found.items():
        if len(values) != 3 or (name == "std" and min(values) <= 0):
            what = "three numbers above 0" if name == "std" else "three numbers"
            raise InputError(f"{spelled(name)} is {values!r}: expected {what}")
    return {name: tuple(values) for name, values in found.items()}


def refuse_other_classes(name: str, known: Sequence[str] | None, data_name: str, classes: tuple[str, ...]) -> None:
    """Refuse labels that count other classes than a network's file, or in another order.

    Where one of both has numbers for names, as ``npz:`` has, they cannot be compared.

    Args:
        name: The network's.
        known: Its classes; None where nobody says.
    """
    if known is None or tuple(known) == classes or all(map(str.isdigit, known)) != all(map(str.isdigit, classes)):
        return
    pairs = enumerate(itertools.zip_longest(known, classes), 1)
    number, (there, here) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
    raise InputError(
        f"{name} knows other classes than {data_name}, or in another order: class {number} is {there!r} there and "
        f"{here!r} here"
    )


def refuse_unknown_classes(model: nn.Module, data: ImageData | MaskData | DetectionData) -> None:
    """The same, of a network that remembers what its file said."""
    refuse_other_classes(name_of(model), kept_beside(model).get("classes"), data.name, data.classes)


def images_for(
    model: nn.Module,
    data: str | ImageData,
    *,
    image_size: int | None,
    mean: Channels,
    std: Channels,
    hold_out: float = 0.0,
) -> ImageData:
    """Labelled images by their reference, sized and normalised for a network; those that are open, as they are.

    Args:
        image_size, mean, std: As asked for; None where the network or the data says.
        hold_out: See ``load_data``; only of what is opened here.
    """
    if isinstance(data, ImageData):
        if image_size not in (None, data.image_size):
            raise InputError(
                f"{spelled('image_size')} is {image_size}, but {data.name} is open, at {data.image_size}: "
                "give it to load_data"
            )
        return dataclasses.replace(data, mean=tuple(mean or data.mean), std=tuple(std or data.std))
    photographs = data.partition(":")[0] in FOLDERS
    if photographs and image_size is None:
        height, width = (designed_shape(model) or (None, None))[-2:]
        if height is None or height != width:
            raise InputError(
                f"{name_of(model)} does not say how large its images are: expected {spelled('image_size')}, such as 224"
            )
        image_size = height
    found = load_data(data, image_size=image_size, hold_out=hold_out)
    return dataclasses.replace(found, **channels_for(model, found, mean, std, photographs=photographs))


def masks_for(
    model: nn.Module,
    data: str | MaskData,
    *,
    image_size: int | None,
    mean: Channels,
    std: Channels,
    hold_out: float = 0.0,
) -> MaskData:
    """Images with masks by their reference, sized and normalised for a network; those that are open, as they are."""
    if isinstance(data, MaskData):
        if image_size not in (None, data.image_size):
            raise InputError(
                f"{spelled('image_size')} is {image_size}, but {data.name} is open, at {data.image_size}: "
                "give it to load_masks"
            )
        return dataclasses.replace(data, mean=tuple(mean or data.mean), std=tuple(std or data.std))
    if data.startswith("coco:"):
        refuse_missing("pycocotools")
    height, width = (designed_shape(model) or (None, None))[-2:]
    size = image_size or (height if height == width else None)
    if size is None:
        raise InputError(
            f"{name_of(model)} does not say how large its images are: expected {spelled('image_size')}, such as 224"
        )
    found = load_masks(data, image_size=size, hold_out=hold_out)
    return dataclasses.replace(found, **channels_for(model, found, mean, std, photographs=True))
