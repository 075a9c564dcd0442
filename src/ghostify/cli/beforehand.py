"""Refusals before a verb's work begins, of all that is known by then."""

import dataclasses

import torch
from torch import nn

from ghostify.cli.opening import NamedImages, NamedNetwork
from ghostify.data import ImageData
from ghostify.errors import InputError
from ghostify.plain_part import is_detector
from ghostify.transform.blueprint import blueprint_of


def open_before(named: NamedNetwork, *, detector: bool = False) -> nn.Module | None:
    """The network, before there are images; None where these say how many outputs it gets.

    Raises:
        InputError: If it cannot be built, or finds objects and is not to, or the other way round.
    """
    # Of whatever number of outputs, it is of the same kind.
    of_two_classes = named.with_classes(2)
    settled = of_two_classes is named
    network = (named if settled else dataclasses.replace(of_two_classes, weights=None, new_head=None)).open()
    refuse_other_kind(named, network, detector=detector)
    return network if settled else None


def refuse_other_kind(named: NamedNetwork, network: nn.Module, *, detector: bool) -> None:
    """Refuse a network that finds objects where one that classifies is expected, or the other way round."""
    if is_detector(network) and not detector:
        raise InputError(f"{named.model} finds objects: use `ghostify detect`, with images that have boxes")
    if detector and not is_detector(network):
        raise InputError(f"{named.model} finds no objects: expected a detector, see `ghostify models`")


def refuse_unsavable(network: nn.Module) -> None:
    """Refuse a network that could not be written when it has learnt."""
    blueprint_of(network)


def open_both(named: NamedNetwork, images: NamedImages, seed: int = 0) -> tuple[nn.Module, ImageData]:
    """A network that classifies and its images, the network first: images may take minutes to be read."""
    torch.manual_seed(seed)
    network = open_before(named)
    data = images.open(named)
    named.refuse_other_classes(data.name, data.classes)
    torch.manual_seed(seed)
    return network or named.open_for(data), data
