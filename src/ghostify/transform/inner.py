"""Inner maps: those that only following layers consume, so that they can be dropped."""

import warnings
from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor, nn
from torch_pruning import ops

from ghostify.errors import InputError
from ghostify.modes import evaluating

# What passes every map on by itself.
PASSES_MAPS_ON = nn.BatchNorm2d | ops._ElementWiseOp | ops._ReshapeOp


@dataclass(frozen=True)
class InnerMaps:
    """Maps of one convolution that go to other layers and nowhere else.

    Args:
        producer: Module name of the convolution that makes them.
        consumers: Of the convolutions and linear layers that take them.
        followers: Of the depthwise convolutions and BatchNorms between, which have something for each map.
    """

    producer: str
    consumers: tuple[str, ...]
    followers: tuple[str, ...]


class Structure:
    """Which layer of a network takes which layer's maps, as Torch-Pruning finds it (Fang et al. 2023).

    Args:
        model: Traced as it is; dropping maps changes it in place.
        example: One batch for it.
    Raises:
        InputError: If Torch-Pruning cannot trace it.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.names = {module: name for name, module in model.named_modules()}
        with evaluating(model), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters outside modules, which it leaves alone
            try:
                self.graph = torch_pruning.DependencyGraph().build_dependency(model, example, verbose=False)
            except (RuntimeError, ValueError, AttributeError, KeyError, IndexError, TypeError) as error:
                raise InputError(f"Torch-Pruning cannot trace {type(model).__name__}: {error}") from error

    def inner_maps(self, conv: nn.Conv2d) -> InnerMaps | str:
        """Where a convolution's maps go, or in a few words why they cannot be dropped."""
        if conv.groups > 1:
            return "grouped"
        consumers, followers = [], []
        try:
            group = self._group(conv, list(range(conv.out_channels)))
        except ValueError:  # it ran, but the tracer found no way from it to an output
            return "the tracer does not follow its maps"
        for dependency, _ in group:
            layer = dependency.target.module
            if layer is conv or isinstance(layer, PASSES_MAPS_ON):
                if isinstance(layer, nn.BatchNorm2d):
                    followers.append(self.names[layer])
                continue
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                return f"its maps meet {type(layer).__name__.strip('_')}"
            if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1:
                followers.append(self.names[layer])
            elif not self.graph.is_out_channel_pruning_fn(dependency.handler) and getattr(layer, "groups", 1) == 1:
                consumers.append(self.names[layer])
            else:
                return f"its maps are coupled to those of {self.names[layer]}"
        if not consumers:
            return "its maps are the network's output"
        return InnerMaps(self.names[conv], tuple(dict.fromkeys(consumers)), tuple(dict.fromkeys(followers)))

    def drop_(self, conv: nn.Conv2d, maps: Tensor) -> None:
        """Remove maps of a convolution and what the layers behind have for them."""
        self._group(conv, maps.tolist()).prune()

    def _group(self, conv: nn.Conv2d, maps: list[int]) -> torch_pruning.Group:
        return self.graph.get_pruning_group(conv, torch_pruning.prune_conv_out_channels, maps)
