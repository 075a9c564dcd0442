"""Prunable channels: those that only following layers take, so that they can be dropped."""

import copy
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch_pruning import ops

from ghostify.errors import InputError
from ghostify.hooks import hooked
from ghostify.modes import evaluating
from ghostify.structure.blocks import ReachedError, run_once
from ghostify.structure.surgery import conv_at

# Layers and operators that treat each channel by itself.
PASSES_MAPS_ON = nn.BatchNorm2d | ops._ElementWiseOp | ops._ReshapeOp


@dataclass(frozen=True)
class PrunableChannels:
    """Channels of one convolution that go to other layers and nowhere else.

    Args:
        producer: Module name of the convolution that makes them.
        consumers: Module names of the convolutions and linear layers that take them.
        followers: Module names of the depthwise convolutions and BatchNorms between, which have weights per channel.
    """

    producer: str
    consumers: tuple[str, ...]
    followers: tuple[str, ...]

    @property
    def takers(self) -> tuple[str, ...]:
        """Module names of all layers that get them."""
        return (*self.followers, *self.consumers)


@contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """Let all parameters require gradients meanwhile: Torch-Pruning follows autograd, which passes by frozen ones."""
    before = [(p, p.requires_grad) for p in model.parameters() if p.is_floating_point()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for parameter, learns in before:
            parameter.requires_grad_(learns)


class Structure:
    """The layers of a network that take each layer's channels, as Torch-Pruning finds them (Fang et al. 2023).

    Args:
        model: Traced as it is; dropping channels changes it in place.
        example: One batch for it.
    Raises:
        InputError: If Torch-Pruning cannot trace it.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model, self.names = model, {module: name for name, module in model.named_modules()}
        with evaluating(model), traceable(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters outside modules, which it leaves alone
            try:
                self.graph = torch_pruning.DependencyGraph().build_dependency(model, example.clone(), verbose=False)
            except Exception as error:  # whatever it or the network's own code may stumble over
                raise InputError(f"Torch-Pruning cannot trace {type(model).__name__}: {error}") from error

    def prunable_channels(self, conv: nn.Conv2d) -> PrunableChannels | str:
        """Where a convolution's channels go, or in a few words why they cannot be dropped."""
        if conv.groups > 1:
            return "grouped"
        consumers, followers = [], []
        try:
            group = self._group(conv, list(range(conv.out_channels)))
        except ValueError:  # it ran, but the tracer found no way from it to an output
            return "the tracer does not follow its channels"
        for dependency, _ in group:
            layer = dependency.target.module
            if layer is conv or isinstance(layer, PASSES_MAPS_ON):
                if isinstance(layer, nn.BatchNorm2d):
                    followers.append(self.names[layer])
                continue
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                return f"its channels meet {type(layer).__name__.strip('_')}"
            if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1:
                followers.append(self.names[layer])
            elif not self.graph.is_out_channel_pruning_fn(dependency.handler) and getattr(layer, "groups", 1) == 1:
                consumers.append(self.names[layer])
            else:
                return f"its channels are coupled to those of {self.names[layer]}"
        if not consumers:
            return "its channels are the network's output"
        return PrunableChannels(self.names[conv], tuple(dict.fromkeys(consumers)), tuple(dict.fromkeys(followers)))

    def drop_(self, conv: nn.Conv2d, channels: Tensor) -> None:
        """Remove channels of a convolution, and the weights for them in the layers behind."""
        frozen = [name for name, parameter in self.model.named_parameters() if not parameter.requires_grad]
        self._group(conv, channels.tolist()).prune()
        for name in frozen:  # pruned parameters are new ones
            self.model.get_parameter(name).requires_grad_(False)

    def _group(self, conv: nn.Conv2d, channels: list[int]) -> torch_pruning.Group:
        return self.graph.get_pruning_group(conv, torch_pruning.prune_conv_out_channels, channels)


def find_prunable(
    model: nn.Module, example: Tensor, convs: Mapping[str, nn.Conv2d], *, dropping: bool = True
) -> dict[str, PrunableChannels | str]:
    """Where the channels of convolutions go, by name, or in a few words why they cannot be dropped.

    The tracer mistakes operators that move channels, such as a channel shuffle, for others that do not, and sees no
    buffer that has a number for each channel. So its findings are tried.

    Args:
        model: Left untouched.
        example: One batch for it.
        convs: The model's, by module name.
        dropping: Try that the network runs with fewer of them, too: some code has their number written out.
    Raises:
        InputError: If Torch-Pruning cannot trace it.
    """
    structure, once = Structure(model, example), set(run_once(model, example))
    places = {name: structure.prunable_channels(conv) for name, conv in convs.items()}
    for name, place in places.items():
        if isinstance(place, PrunableChannels) and not once.issuperset((name, *place.takers)):
            places[name] = "it, or a layer that takes its channels, is not run exactly once for an input"
    found = [place for place in places.values() if isinstance(place, PrunableChannels)]
    before = inputs_at(model, example, {taker for place in found for taker in place.takers})
    for place in found:
        if not keeps_places(model, example, place, before):
            places[place.producer] = "its channels do not arrive in their places in the layers that take them"
    prunable = [name for name, place in places.items() if isinstance(place, PrunableChannels)]
    if dropping and prunable and not runs_with_fewer(model, example, prunable):
        places |= {
            name: "the network does not run without one"
            for name in prunable
            if not runs_with_fewer(model, example, [name])
        }
    return places


@torch.no_grad()
def keeps_places(model: nn.Module, example: Tensor, place: PrunableChannels, before: Mapping[str, Tensor]) -> bool:
    """True if changed channels of a convolution arrive in their places in the layers behind, and no others are changed.

    Args:
        before: Inputs of layers where nothing is changed, by name.
    """
    generator = torch.Generator().manual_seed(0)
    producer = conv_at(model, place.producer)
    channels = producer.out_channels
    changed = torch.rand(channels, generator=generator) < 0.5

    def change(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        # Of both signs and large, so that it shows behind a ReLU.
        noise = torch.randn(output.shape, generator=generator).to(output) * (1 + 3 * output.std())
        return torch.where(changed.to(output.device)[:, None, None], output + noise, output)

    with hooked([producer], after=change):
        after = inputs_at(model, example, place.takers)
    for name, y in after.items():
        x = before[name]
        # A linear layer takes flattened maps.
        if x.ndim not in (2, 4) or x.shape[1] % channels or (x.ndim == 4 and x.shape[1] != channels):
            return False
        differ = (x != y).reshape(len(x), channels, -1).any(2).any(0).cpu()
        if bool((differ & ~changed).any()):
            return False
    return True


@torch.no_grad()
def inputs_at(model: nn.Module, example: Tensor, names: Collection[str]) -> dict[str, Tensor]:
    """The inputs of layers; what runs behind the last of them is not computed."""
    seen: dict[str, Tensor] = {}
    watched = {model.get_submodule(name): name for name in names}

    def take(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[watched[module]] = args[0].clone()  # at once: what runs behind may change it in place
        if len(seen) == len(watched):
            raise ReachedError

    with hooked(watched, before=take), evaluating(model), suppress(ReachedError):
        model(example.clone())
    return seen


@torch.no_grad()
def runs_with_fewer(model: nn.Module, example: Tensor, names: Collection[str]) -> bool:
    """True if the network runs where each of these convolutions that has two channels has lost one."""
    trial = copy.deepcopy(model)
    try:
        structure = Structure(trial, example)
        for name in names:
            conv = conv_at(trial, name)
            if conv.out_channels > 1:
                structure.drop_(conv, torch.tensor([0]))
        with evaluating(trial):
            trial(example.clone())
    except Exception:  # noqa: BLE001  # whatever the network's own code raises where channels are missing
        return False
    return True
