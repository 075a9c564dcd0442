"""The maps that a network's layers make of an image, and the layers at which its stages end."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.errors import InputError
from ghostify.hooks import hooked
from ghostify.modes import evaluating

LISTED = 60  # layers in a message


@dataclass(frozen=True)
class Stage:
    """Layers one after the other whose maps are of one size.

    Args:
        end: Name of the module that makes the stage's output.
        members: Names of its modules, in the order in which they run.
        maps: Number of maps in its output.
        height: Height of its maps, pixels.
        width: Their width, pixels.
        convolutions: Number of convolutions in it.
    """

    end: str
    members: tuple[str, ...]
    maps: int
    height: int
    width: int
    convolutions: int


@dataclass(frozen=True)
class Call:
    """Shapes of the maps that a module took and made, ``[batch, maps, height, width]``."""

    taken: torch.Size
    made: torch.Size

    @property
    def is_one_size(self) -> bool:
        """True if the maps stay as large as they are, or are halved once."""
        return self.taken[2] <= 2 * self.made[2] + 1


def stages(network: nn.Module, x: Tensor) -> list[Stage]:
    """Cut a network where the size of its maps changes.

    Modules that span several sizes are looked into, others are taken whole: a ResNet's stages end with its residual
    stages, a VGG's end before its poolings.

    Args:
        x: Its input, ``[1, channels, height, width]``.
    """
    calls = single_calls(network, x)
    found: list[Stage] = []
    for name in units(network, "", calls):
        _, maps, height, width = calls[name].made
        convolutions = sum(isinstance(module, nn.Conv2d) for module in network.get_submodule(name).modules())
        if found and (found[-1].height, found[-1].width) == (height, width):
            before = found.pop()
            members, convolutions = (*before.members, name), before.convolutions + convolutions
        else:
            members = (name,)
        found.append(Stage(name, members, maps, height, width, convolutions))
    return found


def single_calls(network: nn.Module, x: Tensor) -> dict[str, Call]:
    """The call of each module that runs once and takes and makes maps, in the order in which the calls end."""
    names = {module: name for name, module in network.named_modules()}
    seen: dict[str, list[Call]] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        taken = next((value for value in inputs if are_maps(value)), None)
        if taken is not None and are_maps(output):
            seen.setdefault(names[module], []).append(Call(taken.shape, output.shape))

    with hooked(names, after=note), evaluating(network), torch.inference_mode():
        network(x)
    return {name: calls[0] for name, calls in seen.items() if len(calls) == 1}


def units(module: nn.Module, name: str, calls: Mapping[str, Call]) -> Iterator[str]:
    """The largest modules whose maps are of one size, or are halved once, in running order."""
    order = {called: place for place, called in enumerate(calls)}
    children = [f"{name}.{child}".lstrip(".") for child, _ in module.named_children()]
    for child in sorted(children, key=lambda child: order.get(child, -1)):
        inside = module.get_submodule(child.removeprefix(name).lstrip("."))
        call = calls.get(child)
        if call is not None and call.made[2] > 1 and (call.is_one_size or not list(inside.children())):
            yield child
        else:
            yield from units(inside, child, calls)


def are_maps(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def layers_with_maps(network: nn.Module, x: Tensor) -> dict[str, torch.Size]:
    """The shapes ``[batch, maps, height, width]`` of the maps that modules make of ``x``, in the order they end in."""
    names = {module: name for name, module in network.named_modules() if name}
    made: dict[str, torch.Size] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if are_maps(output):
            made.setdefault(names[module], output.shape)

    with hooked(names, after=note), evaluating(network), torch.inference_mode():
        network(x)
    return made


def maps_of(network: nn.Module, names: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    """The maps that layers make of the first image of ``x``: float ``[maps, height, width]`` each, on the CPU.

    Raises:
        InputError: If there is no such layer, or it makes no maps; the message lists those that do.
    """
    modules = dict(network.named_modules())
    for name in names:
        if name not in modules or not name:
            raise InputError(f"there is no layer {name!r} in this network: {expected_layers(network, x, name)}")
    chosen = {modules[name]: name for name in names}
    caught: dict[str, Tensor] = {}

    def catch(module: nn.Module, inputs: Any, output: Any) -> None:
        name = chosen[module]
        if are_maps(output) and name not in caught:
            caught[name] = output[0].float().cpu().clone()  # what follows may write into it

    with hooked(chosen, after=catch), evaluating(network), torch.inference_mode():
        network(x)
    for name in names:
        if name not in caught:
            raise InputError(
                f"{name} makes no maps [batch, maps, height, width] of this network's input: "
                f"{expected_layers(network, x, name)}"
            )
    return caught


def expected_layers(network: nn.Module, x: Tensor, wrong: str) -> str:
    """The layers that can be asked for instead of a wrong one, those of a like name first."""
    known = list(layers_with_maps(network, x))
    near = get_close_matches(wrong, known, n=3, cutoff=0.3)
    listed = [*near, *(name for name in known if name not in near)]
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return f"expected one of {', '.join(listed[:LISTED])}{more}" if listed else "it has no layer that does"
