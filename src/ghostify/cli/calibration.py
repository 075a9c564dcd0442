"""Photographs without classes to calibrate on, as the user names them."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from PIL import Image
from torch import Tensor, nn

from ghostify.cli.opening import NamedImages, NamedNetwork, channels_for
from ghostify.cli.output import progress_bars
from ghostify.data import ImageData
from ghostify.data.augment import normalise
from ghostify.data.folder import draw_photographs, find_photographs, no_larger_than
from ghostify.data.own import data_from_photographs
from ghostify.data.sources import plain_crop
from ghostify.errors import InputError
from ghostify.fitting.calibration import FEWEST_IMAGES
from ghostify.plain_part import is_detector, what_it_takes

BATCH, DETECTORS_BATCH = 64, 16
MOST_PHOTOGRAPHS = 5000  # kept in memory

photographs_option = click.option(
    "--calibration",
    "photographs",
    type=Path,
    help="Folder of photographs, without classes, to calibrate on instead of --data.",
)


def check_sources(images: NamedImages, photographs: Path | None, needed_by: str = "") -> None:
    """Refuse two sources of images, none where something needs them, and a folder without photographs.

    Args:
        photographs: Folder of --calibration.
        needed_by: The verb or option that needs images; "" where nothing does.
    """
    if images.data_name is not None and photographs is not None:
        raise InputError("--data and --calibration both name images to calibrate on: expected one of them")
    if images.data_name is None and photographs is None and needed_by:
        raise InputError(
            f"{needed_by} needs images to calibrate on: name them with --data, "
            "or a folder of photographs without classes with --calibration"
        )
    if photographs is not None:
        find_photographs(photographs)


@dataclass(frozen=True)
class Photographs:
    """Photographs as a network gets them.

    Args:
        batches: ``[batch, 3, height, width]``, normalised; for a detector lists of images ``[3, height, width]`` with
            values 0..1.
        extra: How images become inputs, to be kept beside a network.
    """

    batches: list[Any]
    extra: dict[str, Any]


def open_photographs(
    folder: Path, named: NamedNetwork, network: nn.Module, images: NamedImages, number: int, seed: int
) -> Photographs:
    """Photographs of a folder, drawn at random, resized and cropped as for evaluation.

    Their size is what the user says, else the network's own; their normalisation what the user says, else the network
    file's, else what a library's own weights of it want, else ImageNet's. A detector gets them whole, no larger than
    it would make them.
    """
    if is_detector(network):
        sizes = what_it_takes(network)
        drawn = draw(folder, number, no_larger_than(sizes["min_size"], sizes["max_size"]), images, seed)
        inputs = [image.to(images.device).float() / 255 for image in drawn]
        return Photographs(in_parts(inputs, DETECTORS_BATCH), named.extra)
    pixels, channels = cropped(folder, named, network, images, number, seed)
    batches = [normalise(part, **channels).to(images.device) for part in pixels.split(BATCH)]
    height, width = pixels.shape[2:]
    size = {"image_size": height} if height == width else {}
    return Photographs(batches, {**named.extra, **channels, **size})


def cropped(
    folder: Path, named: NamedNetwork, network: nn.Module, images: NamedImages, number: int, seed: int
) -> tuple[Tensor, dict[str, Any]]:
    """Photographs as uint8 ``[images, 3, height, width]``, and ``mean`` and ``std`` to normalise them by."""
    shape = (3, images.image_size, images.image_size) if images.image_size else named.shape(network)
    if len(shape) != 3 or shape[0] != 3:
        raise InputError(f"{named.model} takes inputs {list(shape)}: photographs are [3, height, width]")
    drawn = draw(folder, number, plain_crop(*shape[1:]), images, seed)
    return torch.stack(drawn), channels_for(named, images.mean, images.std, ImageData)


def data_of_photographs(
    folder: Path, named: NamedNetwork, network: nn.Module, images: NamedImages, seed: int
) -> tuple[ImageData, dict[str, Any]]:
    """Photographs as a data set whose labels are the network's own answers, and how they become inputs."""
    pixels, channels = cropped(folder, named, network, images, MOST_PHOTOGRAPHS, seed)
    inputs = (normalise(part, **channels) for part in pixels.split(BATCH))
    data = data_from_photographs(pixels, inputs, network, str(folder), **channels)
    return data, {**named.extra, **channels, "image_size": data.image_size}


def draw(
    folder: Path, number: int, prepare: Callable[[Image.Image], Tensor], images: NamedImages, seed: int
) -> list[Tensor]:
    """Photographs as ``draw_photographs`` has them; files that it passed over are said on standard error."""
    with progress_bars() as progress:
        drawn = draw_photographs(
            folder, number, prepare, seed, at_least=FEWEST_IMAGES, workers=images.workers, progress=progress
        )
    if drawn.passed_over:
        print(
            f"passed over of {folder}: {len(drawn.passed_over)} that cannot be decoded, such as {drawn.passed_over[0]}",
            file=sys.stderr,
        )
    return list(drawn.images)


def in_parts(values: list[Tensor], size: int) -> list[list[Tensor]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
