"""The network that a user named, and what is known of it."""

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from ghostify.data import ImageData
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
    return options if is_file or not takes_option(model, "num_classes") else {"num_classes": classes, **options}


def own_shape(network: nn.Module) -> tuple[int, ...]:
    """The input that a network is made for, else ImageNet's; of a detector that of its plain part."""
    if is_detector(network):
        return input_shape_of(network)
    origin = known_origin(network)
    return origin.input_shape if origin else (3, 224, 224)


def checked_shape(input_shape: tuple[int, ...] | None, *networks: nn.Module) -> tuple[int, ...]:
    """The input that a user named, else the first network's own; refused where one of them cannot take it."""
    shape = input_shape or own_shape(networks[0])
    for network in networks:
        count(network, shape)
    return shape


def extra_of(model: str) -> dict[str, Any]:
    """What a network's file says beside the network, such as its preprocessing."""
    return read_extra(model) if Path(model).is_file() else {}


Channels = tuple[float, ...] | None


def normalised_for(model: str, data: ImageData, mean: Channels, std: Channels) -> ImageData:
    """The images, normalised as the user says, else as the network's file says, where it says so."""
    extra = extra_of(model)
    mean, std = mean or extra.get("mean", data.mean), std or extra.get("std", data.std)
    return dataclasses.replace(data, mean=tuple(mean), std=tuple(std))
