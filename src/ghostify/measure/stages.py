"""The maps that a network's layers make of an image, and the layers at which its stages end."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.errors import InputError
from ghostify.modes import evaluating


@dataclass(frozen=True)
class Stage:
    """Layers one after the other whose maps are of one size.

    Args:
        end: Name of the module that makes the stage's output.
        members: Names of its modules, in the order in which they run.
        maps: Of its output.
        height: Of its maps, pixels.
        width: Likewise.
        convolutions: How many it has.
    """

    end: str
    members: tuple[str, ...]
    maps: int
    height: int
    width: int
    convolutions: int


def stages(network: nn.Module, x: Tensor) -> list[Stage]:
    """Cut a network where the size of its maps changes.

    Modules that span several sizes are looked into, others are taken whole: of a ResNet the stages end
    with its residual stages, of a VGG before its poolings.

    Args:
        x: Its input, ``[1, channels, height, width]``.
    """
    calls = one_call_each(network, x)
    found: list[Stage] = []
    for name in units(network, "", calls):
        shape = calls[name][1]
        convolutions = sum(isinstance(module, nn.Conv2d) for module in network.get_submodule(name).modules())
        same = found and (found[-1].height, found[-1].width) == shape[2:]
        before = found.pop() if same else None
        members = (*before.members, name) if before else (name,)
        convolutions += before.convolutions if before else 0
        found.append(Stage(name, members, shape[1], shape[2], shape[3], convolutions))
    return found


def one_call_each(network: nn.Module, x: Tensor) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shapes of the input and output maps of each module that runs once, in the order in which they end."""
    seen: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
    hooks = []
    for name, module in network.named_modules():

        def note(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
            given = next((value for value in inputs if are_maps(value)), None)
            if given is not None and are_maps(output):
                seen.setdefault(name, []).append((tuple(given.shape), tuple(output.shape)))

        hooks.append(module.register_forward_hook(note))
    try:
        with evaluating(network), torch.inference_mode():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: calls[0] for name, calls in seen.items() if len(calls) == 1}


def units(module: nn.Module, name: str, calls: dict[str, Any]) -> Iterator[str]:
    """The largest modules whose maps are of one size, but for one step of two at most, in running order."""
    order = {called: place for place, called in enumerate(calls)}
    children = [f"{name}.{child}".lstrip(".") for child, _ in module.named_children()]
    for child in sorted(children, key=lambda child: order.get(child, -1)):
        inside = module.get_submodule(child.removeprefix(name).lstrip("."))
        given, made = calls.get(child, (None, None))
        one_size = given is not None and given[2] <= 2 * made[2] + 1
        if given is not None and made[2] > 1 and (one_size or not list(inside.children())):
            yield child
        else:
            yield from units(inside, child, calls)


def are_maps(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def maps_of(network: nn.Module, names: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    """What layers make of the first image of ``x``: float ``[maps, height, width]`` each, on the CPU.

    Raises:
        InputError: If there is no such layer, or it makes no maps.
    """
    caught: dict[str, Tensor] = {}

    def catch(name: str, output: Any) -> None:
        if are_maps(output) and name not in caught:
            caught[name] = output[0].float().cpu().clone()  # what follows may write into it

    with watching(network, names, catch), evaluating(network), torch.inference_mode():
        network(x)
    for name in names:
        if name not in caught:
            raise InputError(f"{name} makes no maps [batch, maps, height, width] of this network's input")
    return caught


@contextmanager
def watching(network: nn.Module, names: Iterable[str], tell: Callable[[str, Any], None]) -> Iterator[None]:
    """Have layers tell what they make, by name, until the block ends."""
    modules = dict(network.named_modules())
    hooks = []
    try:
        for name in names:
            if name not in modules or not name:
                near = get_close_matches(name, modules, n=3, cutoff=0.3) or list(modules)[1:4]
                raise InputError(f"there is no layer {name!r} in this network: expected one such as {', '.join(near)}")
            hooks.append(
                modules[name].register_forward_hook(lambda module, inputs, output, name=name: tell(name, output))
            )
        yield
    finally:
        for hook in hooks:
            hook.remove()
