"""The network that a user named, and what is known of it."""

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

from torch import nn

from ghostify.data import ImageData, load_data
from ghostify.data.sources import FOLDERS
from ghostify.errors import InputError
from ghostify.measure.count import count
from ghostify.models.registry import known_origin, takes_option
from ghostify.network_file import open_network, read_extra
from ghostify.plain_part import input_shape_of, is_detector


def open_given(model: str, options: dict[str, Any]) -> nn.Module:
    """The network; options that were left open are the builder's to choose."""
    return open_network(model, **{name: value for name, value in options.items() if value is not None})


def open_for(data: ImageData, model: str, options: dict[str, Any]) -> nn.Module:
    """The network, with as many outputs as the data has classes where that is left open."""
    network = open_given(model, with_classes(model, len(data.classes), options))
    if is_detector(network):
        raise InputError(f"{model} finds objects: use `ghostify detect`, with images that have boxes")
    return network


def with_classes(model: str, classes: int, options: dict[str, Any]) -> dict[str, Any]:
    """The options, with as many outputs as there are classes where that is left open and the builder's to choose."""
    is_file = Path(model).is_file() or model.endswith(".safetensors")
    if is_file or not takes_option(model, "num_classes") or options.get("num_classes") is not None:
        return options
    return {**options, "num_classes": classes}


def own_shape(model: str, network: nn.Module) -> tuple[int, ...]:
    """The input that a network is made for: by its file, by its builder, else ImageNet's; a detector's plain part's."""
    if is_detector(network):
        return input_shape_of(network)
    side = extra_of(model).get("image_size")
    if isinstance(side, int):
        return (3, side, side)
    origin = known_origin(network)
    return origin.input_shape if origin else (3, 224, 224)


def checked_shape(input_shape: tuple[int, ...] | None, model: str, *networks: nn.Module) -> tuple[int, ...]:
    """The input that a user named, else the first network's own; refused where one of them cannot take it."""
    shape = input_shape or own_shape(model, networks[0])
    for network in networks:
        count(network, shape)
    return shape


def extra_of(model: str) -> dict[str, Any]:
    """What a network's file says beside the network, such as its preprocessing."""
    return read_extra(model) if Path(model).is_file() else {}


Channels = tuple[float, ...] | None


def images_for(
    model: str, data_name: str, image_size: int | None, mean: Channels, std: Channels, hold_out: float = 0.0
) -> ImageData:
    """The images, sized and normalised as the user says, else as the network's file says, where it says so."""
    extra = extra_of(model)
    if data_name.partition(":")[0] in FOLDERS:
        image_size = image_size or extra.get("image_size")
    data = load_data(data_name, image_size=image_size, hold_out=hold_out)
    known = {} if mean and std else channels_of(model, extra)
    return dataclasses.replace(data, mean=mean or known.get("mean", data.mean), std=std or known.get("std", data.std))


def channels_of(model: str, extra: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """What a network's file says of how images are normalised: nothing, or ``mean`` and ``std`` of three channels."""
    found = {name: extra[name] for name in ("mean", "std") if extra.get(name) is not None}
    for name, values in found.items():
        three = isinstance(values, list | tuple) and len(values) == 3
        finite = three and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
        if not finite or (name == "std" and min(values) <= 0):
            what = "three numbers above 0" if name == "std" else "three numbers"
            raise InputError(f"{model} says that {name} is {values!r}: expected {what}; give --mean and --std")
    return {name: tuple(values) for name, values in found.items()}


def refuse_other_classes(model: str, data_name: str, classes: tuple[str, ...]) -> None:
    """Refuse labels that count other classes than a network's file, or in another order.

    Where one of both has numbers for names, as ``npz:`` has, nothing can be told.
    """
    known = extra_of(model).get("classes")
    if known is None or tuple(known) == classes or all(map(str.isdigit, known)) != all(map(str.isdigit, classes)):
        return
    pairs = enumerate(itertools.zip_longest(known, classes), 1)
    number, (there, here) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
    raise InputError(
        f"{model} knows other classes than {data_name}, or in another order: "
        f"class {number} is {there!r} there and {here!r} here"
    )
