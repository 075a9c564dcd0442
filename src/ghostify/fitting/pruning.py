"""Drop the channels without which the following layers lose least."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ghostify.errors import InputError
from ghostify.fitting.absorb import MOST_SAMPLES, Taken, absorbed, as_layer_has, channel_samples
from ghostify.fitting.least_squares import choose_maps, complement
from ghostify.fitting.moments import MomentSums, samples_per_image
from ghostify.hooks import hooked
from ghostify.structure.channels import GATED, by_input, drop_channels_of_, find_dropped
from ghostify.structure.surgery import conv_at, has_hooks


@dataclass(frozen=True)
class LeftChannels:
    """The channels of a convolution that are left.

    Args:
        rows: Their indices in the original.
        consumers: Module names of the layers that take them.
    """

    rows: Tensor
    consumers: tuple[str, ...]


@torch.no_grad()
def drop_channels_(
    ghost: nn.Module, original: nn.Module, dropped: Mapping[str, int], batches: Sequence[Tensor]
) -> dict[str, LeftChannels]:
    """Drop channels of convolutions, in numbers by name; returns those left, by name.

    Layers that take them and have no number here absorb those that go; the others are to be fitted.

    Raises:
        InputError: If the channels of one cannot be dropped.
    """
    dropping = [name for name, number in dropped.items() if number]
    if not dropping:
        return {}
    prunable = find_dropped(ghost, batches[0][:1], dropping)
    for name, place in prunable.items():
        absorbing = [other for other in place.consumers if other not in dropped]
        if others := [other for other in absorbing if has_hooks(ghost.get_submodule(other))]:
            raise InputError(f"channels of {name} cannot be dropped: {others[0]} takes them, and has a hook")
        if gates := [follower for follower in place.followers if follower in dropped]:
            raise InputError(f"channels of {name} cannot be dropped: {GATED.format(gates[0])}")
    # Those that are fitted decide which stay, where there are any.
    judges = {name: [each for each in place.consumers if each in dropped] for name, place in prunable.items()}
    judges = {name: found or list(prunable[name].consumers) for name, found in judges.items()}
    covariances = consumed_covariances(original, {name: found[0] for name, found in judges.items()}, batches)
    makers = {other: name for name, place in prunable.items() for other in place.consumers if other not in dropped}
    taken = taken_channels(original, makers, batches)
    left = {}
    for name, covariance in covariances.items():
        channels, place = len(covariance), prunable[name]
        effects = [consumer_gram(original.get_submodule(judge), channels) for judge in judges[name]]
        if dropped[name] % place.unit:
            raise InputError(
                f"{dropped[name]} channels of {name} cannot be dropped: a grouped convolution takes them by "
                f"{place.unit}; plan to drop a multiple of that"
            )
        rows = choose_maps(covariance, torch.stack(effects).sum(0), channels - dropped[name], place.unit)
        left[name] = LeftChannels(rows, place.consumers)
        for absorber in [other for other, maker in makers.items() if maker == name]:
            layer = ghost.get_submodule(absorber)
            weights = absorbed(layer, rows, channels, taken[absorber].products)
            layer.get_parameter("weight").copy_(as_layer_has(layer, weights))
        drop_channels_of_(ghost, place, complement(rows, channels))
    return left


def consumed_covariances(
    original: nn.Module, consumers: Mapping[str, str], batches: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Covariances of channels where a consumer takes them: ``[channels, channels]`` by producer."""
    images = sum(len(batch) for batch in batches)
    sums = {name: MomentSums() for name in consumers}
    watched: dict[nn.Module, list[str]] = {}
    for name, consumer in consumers.items():
        watched.setdefault(original.get_submodule(consumer), []).append(name)

    def take(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        for name in watched[module]:
            n = conv_at(original, name).out_channels
            pixels = args[0].numel() // (n * len(args[0]))
            x = channel_samples(module, args[0], n, len(args[0]) * samples_per_image(pixels, n, images))
            sums[name].add(x, x[:, :0])

    with hooked(watched, before=take), torch.no_grad():
        for batch in batches:
            original(batch.clone())
    return {name: found.moments().xx for name, found in sums.items()}


def taken_channels(original: nn.Module, absorbing: Mapping[str, str], batches: Sequence[Tensor]) -> dict[str, Taken]:
    """Statistics of channels by the name of the layer that absorbs them.

    Args:
        absorbing: Convolutions that make them, by the same name.
    """
    samples: dict[str, list[Tensor]] = {name: [] for name in absorbing}
    names = {original.get_submodule(name): name for name in absorbing}

    def take(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        name = names[module]
        channels = conv_at(original, absorbing[name]).out_channels
        samples[name].append(channel_samples(module, args[0], channels, MOST_SAMPLES / len(batches)).clone())

    with hooked(names, before=take), torch.no_grad():
        for batch in batches if absorbing else ():
            original(batch.clone())
    return {name: Taken.of(found) for name, found in samples.items()}


def consumer_gram(layer: nn.Module, channels: int) -> Tensor:
    """Effect of errors in input channels on a layer's output, summed over its kernel: ``[channels, channels]``."""
    filters = by_input(layer, channels).detach().double()
    return torch.einsum("oip,ojp->ij", filters, filters)
