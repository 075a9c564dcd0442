"""Drop the channels without which the following layers lose least."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ghostify.fitting.least_squares import choose_maps, complement
from ghostify.fitting.moments import MomentSums, samples_per_image
from ghostify.hooks import hooked
from ghostify.structure.channels import PrunableChannels, drop_channels_of_, find_dropped
from ghostify.structure.surgery import conv_at


@dataclass(frozen=True)
class LeftChannels:
    """The channels of a convolution that are left.

    Args:
        rows: Their indices in the original.
        consumers: Module names of the layers that take them.
    """

    rows: Tensor
    consumers: tuple[str, ...]


def drop_channels_(
    ghost: nn.Module, original: nn.Module, dropped: Mapping[str, int], batches: Sequence[Tensor]
) -> dict[str, LeftChannels]:
    """Drop channels of convolutions, in numbers by name; returns those left, by name."""
    dropping = [name for name, number in dropped.items() if number]
    if not dropping:
        return {}
    prunable = find_dropped(ghost, batches[0][:1], dropping)
    left = {}
    for name, covariance in consumed_covariances(original, prunable, batches).items():
        channels, consumers = len(covariance), prunable[name].consumers
        effect = sum(consumer_gram(original.get_submodule(consumer), channels) for consumer in consumers)
        assert isinstance(effect, Tensor)
        rows = choose_maps(covariance, effect, channels - dropped[name])
        left[name] = LeftChannels(rows, consumers)
        drop_channels_of_(ghost, prunable[name], complement(rows, channels))
    return left


def consumed_covariances(
    original: nn.Module, prunable: Mapping[str, PrunableChannels], batches: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Covariances of channels where their first consumer takes them: ``[channels, channels]`` by producer."""
    images = sum(len(batch) for batch in batches)
    sums = {name: MomentSums() for name in prunable}
    watched: dict[nn.Module, list[str]] = {}
    for name, channels in prunable.items():
        watched.setdefault(original.get_submodule(channels.consumers[0]), []).append(name)

    def take(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        for name in watched[module]:
            n = conv_at(original, name).out_channels
            seen = args[0].reshape(len(args[0]), n, -1)  # a linear layer's inputs are channels, flattened
            step = max(1, seen.shape[2] // samples_per_image(seen.shape[2], n, images))
            x = seen[:, :, ::step].transpose(1, 2).flatten(0, 1)
            sums[name].add(x, x[:, :0])

    with hooked(watched, before=take), torch.no_grad():
        for batch in batches:
            original(batch.clone())
    return {name: found.moments().xx for name, found in sums.items()}


def consumer_gram(layer: nn.Module, channels: int) -> Tensor:
    """Effect of errors in input channels on a layer's output, summed over its kernel: ``[channels, channels]``."""
    weight: Tensor = layer.weight  # type: ignore[assignment]  # of a Conv2d or Linear
    filters = weight.detach().flatten(1).unflatten(1, (channels, -1)).double()  # [out, channels, area]
    return torch.einsum("oip,ojp->ij", filters, filters)
