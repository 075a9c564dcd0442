"""Prunable channels: those that only following layers take, so that they can be dropped."""

import copy
import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ghostify.errors import InputError
from ghostify.structure.blocks import times_called
from ghostify.structure.surgery import close, conv_at, outputs_of
from ghostify.structure.trace import row_dim, trace_channels

# Attributes of layers that tell how many channels they have.
NUMBERS = ("out_channels", "in_channels", "groups", "num_features", "num_parameters")

OTHERWISE = "it, or a layer that takes its channels, gets more than one tensor, or others in another of its calls"
NEEDED = "the network does not run without one"


@dataclass(frozen=True)
class PrunableChannels:
    """Channels of one convolution that go to other layers and nowhere else.

    Args:
        producer: Module name of the convolution that makes them.
        consumers: Module names of the convolutions and linear layers that take them.
        followers: Module names of the layers between that have weights per channel, such as depthwise convolutions and
            BatchNorms.
    """

    producer: str
    consumers: tuple[str, ...]
    followers: tuple[str, ...]

    @property
    def takers(self) -> tuple[str, ...]:
        """Module names of all layers that get them."""
        return (*self.followers, *self.consumers)


def find_prunable(
    model: nn.Module, example: Tensor, convs: Collection[str], *, dropping: bool = True
) -> dict[str, PrunableChannels | str]:
    """Where the channels of convolutions go, by name, or in a few words why they cannot be dropped.

    Args:
        model: Left untouched.
        example: One batch for it.
        convs: Module names of convolutions.
        dropping: Try that the network computes the same with fewer of them, too: some code has their number written
            out.
    """
    times = times_called(model, example)
    ways = trace_channels(model, example, convs)
    makers = Counter(taker for way in ways.values() for taker in {*way.consumers, *way.followers})
    places: dict[str, PrunableChannels | str] = {}
    for name, way in ways.items():
        place = PrunableChannels(name, tuple(dict.fromkeys(way.consumers)), tuple(dict.fromkeys(way.followers)))
        taken = Counter((*way.consumers, *way.followers))
        if name not in times:
            places[name] = OTHERWISE
        elif way.reason:
            places[name] = way.reason
        else:
            always = all(taken[taker] >= times.get(taker, math.inf) and makers[taker] == 1 for taker in place.takers)
            places[name] = place if always else OTHERWISE
    found = [place for place in places.values() if isinstance(place, PrunableChannels)]
    if dropping and found and not same_with_fewer(model, example, found):
        places |= {place.producer: NEEDED for place in found if not same_with_fewer(model, example, [place])}
    return places


def find_dropped(model: nn.Module, example: Tensor, names: Collection[str]) -> dict[str, PrunableChannels]:
    """Where the channels of convolutions go of which a plan drops some.

    Raises:
        InputError: If those of one cannot be dropped.
    """
    places: dict[str, PrunableChannels] = {}
    for name, place in find_prunable(model, example, names).items():
        if isinstance(place, str):
            raise InputError(f"channels of {name} cannot be dropped: {place}; plan to keep or ghost them")
        places[name] = place
    return places


@torch.no_grad()
def drop_channels_of_(model: nn.Module, place: PrunableChannels, channels: Tensor) -> None:
    """Remove channels of a convolution, and the weights for them in the layers behind.

    Args:
        channels: Indices of those to remove.
    """
    producer = conv_at(model, place.producer)
    before = producer.out_channels
    kept = torch.ones(before, dtype=torch.bool)
    kept[channels.cpu()] = False
    rows = kept.nonzero().flatten()
    for name in (place.producer, *place.followers):
        layer = model.get_submodule(name)
        for key, tensor in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
            if tensor.ndim:  # all but BatchNorm's counter have a row for each channel
                put_(layer, key, tensor.index_select(row_dim(tensor), rows.to(tensor.device)))
        numbers = ("out_channels",) if name == place.producer else NUMBERS
        vars(layer).update({key: len(rows) for key in numbers if vars(layer).get(key) == before})
    for name in place.consumers:
        layer = model.get_submodule(name)
        weight = layer.get_parameter("weight")
        # A linear layer behind a flattening has several inputs for each channel.
        columns = rows.to(weight.device)
        left = weight.unflatten(1, (before, -1)).index_select(1, columns).flatten(1, 2)
        put_(layer, "weight", left)
        key = "in_channels" if isinstance(layer, nn.Conv2d) else "in_features"
        vars(layer)[key] = left.shape[1]


def put_(layer: nn.Module, key: str, tensor: Tensor) -> None:
    """Put another tensor in the place of a parameter or buffer."""
    old = getattr(layer, key)
    tensor = tensor.clone(memory_format=torch.preserve_format)
    if isinstance(old, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
    setattr(layer, key, tensor)


@torch.no_grad()
def same_with_fewer(model: nn.Module, example: Tensor, places: Collection[PrunableChannels]) -> bool:
    """True if a network that has lost a channel of each convolution computes what it does if nobody takes that channel.

    Args:
        places: Those of convolutions with a single channel are passed over.
    """
    without, untaken = copy.deepcopy(model), copy.deepcopy(model)
    for place in places:
        channels = conv_at(model, place.producer).out_channels
        if channels > 1:
            drop_channels_of_(without, place, torch.tensor([0]))
            for name in place.consumers:
                untaken.get_submodule(name).get_parameter("weight").unflatten(1, (channels, -1))[:, 0] = 0
    try:
        outputs = outputs_of(without, example)
    except Exception:  # noqa: BLE001  # whatever the network's own code raises where channels are missing
        return False
    expected = outputs_of(untaken, example)
    return len(outputs) == len(expected) and all(map(close, outputs, expected))
