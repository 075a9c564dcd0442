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
NUMBERS = ("out_channels", "in_channels", "groups", "num_features", "num_parameters", "in_features", "num_channels")

OTHERWISE = "it, or a layer that takes its channels, gets more than one tensor, or others in another of its calls"
GATED = "{}, whose output they are multiplied by, may itself change"
NEEDED = "the network does not run without one"


@dataclass(frozen=True)
class PrunableChannels:
    """Channels of one convolution that go to other layers and nowhere else.

    Args:
        producer: Module name of the convolution that makes them.
        consumers: Module names of the convolutions, also transposed ones, and linear layers that take them.
        followers: Module names of the layers between that have weights per channel, such as depthwise and grouped
            convolutions, BatchNorms, and the last convolution of a squeeze-and-excite gate.
        unit: Channels that go together, one behind the other: those of a grouped convolution's group.
    """

    producer: str
    consumers: tuple[str, ...]
    followers: tuple[str, ...]
    unit: int = 1

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
    # The last convolution of a gate takes the channels of one, and makes as many as another has.
    makers = Counter(("consumer", taker) for way in ways.values() for taker in {*way.consumers})
    makers += Counter(("follower", taker) for way in ways.values() for taker in {*way.followers})
    places: dict[str, PrunableChannels | str] = {}
    for name, way in ways.items():
        consumers, followers = (tuple(dict.fromkeys(names)) for names in (way.consumers, way.followers))
        place = PrunableChannels(name, consumers, followers, way.unit)
        taken = Counter((*way.consumers, *way.followers))
        if name not in times:
            places[name] = OTHERWISE
        elif way.reason:
            places[name] = way.reason
        else:
            always = all(taken[taker] >= times.get(taker, math.inf) for taker in place.takers)
            alone = all(makers["consumer", taker] == 1 for taker in place.consumers)
            alone = alone and all(makers["follower", taker] == 1 for taker in place.followers)
            places[name] = place if always and alone else OTHERWISE
        gates = [gate for gate in place.followers if gate in ways and name in ways[gate].gated]
        if way.gated:
            places[name] = f"its channels go with those of {way.gated[0]}, one for one"
        elif any(ways[gate].reason or ways[gate].consumers or ways[gate].followers for gate in gates):
            places[name] = "the gate that multiplies its channels is taken elsewhere, too"
    places = {name: place for name, place in places.items() if name in convs}
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
        channels: Indices of those to remove, whole units.
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
        # A gate's convolution may take as many channels as it makes.
        makes = name == place.producer or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        numbers = ("out_channels",) if makes else NUMBERS
        in_groups = {"groups": layer.groups * len(rows) // before} if isinstance(layer, nn.Conv2d) and not makes else {}
        vars(layer).update({key: len(rows) for key in numbers if vars(layer).get(key) == before} | in_groups)
    for name in place.consumers:
        layer = model.get_submodule(name)
        weight, dim = layer.get_parameter("weight"), input_dim(layer)
        # A linear layer behind a flattening has several inputs for each channel.
        columns = rows.to(weight.device)
        left = weight.unflatten(dim, (before, -1)).index_select(dim, columns).flatten(dim, dim + 1)
        put_(layer, "weight", left)
        vars(layer)["in_features" if isinstance(layer, nn.Linear) else "in_channels"] = left.shape[dim]


def input_dim(layer: nn.Module) -> int:
    """The dimension of a layer's weights along which its inputs are."""
    return 0 if isinstance(layer, nn.ConvTranspose2d) else 1


def by_input(layer: nn.Module, channels: int) -> Tensor:
    """A layer's weights for each of the channels that it takes: ``[outputs, channels, area]``.

    Example:
        >>> by_input(nn.ConvTranspose2d(4, 8, 3), 4).shape, by_input(nn.Linear(20, 8), 4).shape
        (torch.Size([8, 4, 9]), torch.Size([8, 4, 5]))
    """
    weight = layer.get_parameter("weight")
    return (weight.transpose(0, 1) if input_dim(layer) == 0 else weight).flatten(1).unflatten(1, (channels, -1))


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
        places: Those of convolutions with a single channel, or a single unit of some, are passed over.
    """
    without, untaken = copy.deepcopy(model), copy.deepcopy(model)
    for place in places:
        channels = conv_at(model, place.producer).out_channels
        if channels > place.unit:
            drop_channels_of_(without, place, torch.arange(place.unit))
            for name in place.consumers:
                layer = untaken.get_submodule(name)
                dim = input_dim(layer)
                layer.get_parameter("weight").unflatten(dim, (channels, -1)).narrow(dim, 0, place.unit).zero_()
    try:
        outputs = outputs_of(without, example)
    except Exception:  # noqa: BLE001  # whatever the network's own code raises where channels are missing
        return False
    expected = outputs_of(untaken, example)
    return len(outputs) == len(expected) and all(map(close, outputs, expected))
