"""The parts of a network that run one after the other, and their inputs and outputs."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.hooks import hooked
from ghostify.modes import evaluating

# Layers in a block: an Inception module has 9, a residual block 2 to 4; more is a network within the network.
LARGEST = 10


@dataclass(frozen=True)
class Block:
    """A module with one tensor in and one out that runs once.

    Args:
        name: Full module name.
        convs: Layers inside, of those asked for, in the order in which they run.
        chained: True if its input is the very output of the block before.
    """

    name: str
    convs: tuple[str, ...]
    chained: bool


@dataclass(frozen=True)
class Call:
    """One call of a module with one tensor in and one out.

    Args:
        input: Its input.
        output: Its output.
        versions: How often the input had been written to when the module began, and the output when it ended: what
            runs behind may change it in place.
    """

    input: Tensor
    output: Tensor
    versions: tuple[int, int]

    def chained_to(self, before: "Call | None") -> bool:
        """True if its input is the output of a call before, unchanged."""
        return before is not None and before.output is self.input and before.versions[1] == self.versions[0]


@dataclass
class Calls:
    """How often a module ran, and its calls with one tensor in and one out."""

    times: int = 0
    plain: list[Call] = field(default_factory=list)

    @property
    def once(self) -> bool:
        return self.times == len(self.plain) == 1


def find_blocks(model: nn.Module, layers: Collection[str], example: Tensor) -> list[Block]:
    """Split a network into blocks that hold these layers, in the order in which they run.

    A block is the largest module that is no mere container and holds at most ``LARGEST`` of the layers, convolutions
    all of them; where there is none, the layer itself. Layers that do not run once with one tensor are in no block.
    """
    if "" in layers:
        return [Block("", ("",), chained=False)]  # the network is one convolution
    calls = record_calls(model, example)
    names = {module: name for name, module in model.named_modules()}
    order = {names[module]: index for index, module in enumerate(calls)}
    larger = {name for name in layers if not isinstance(model.get_submodule(name), nn.Conv2d)}

    def inside(name: str) -> list[str]:
        found = [layer for layer in layers if layer == name or layer.startswith(f"{name}.")]
        return sorted((layer for layer in found if layer in order), key=order.__getitem__)

    def split(parent: nn.Module, prefix: str) -> Iterator[str]:
        for child_name, child in parent.named_children():
            name = f"{prefix}{child_name}"
            held = inside(name)
            if not held:
                continue
            container = type(child) in (nn.Sequential, nn.ModuleList, nn.ModuleDict)
            whole = child in calls and calls[child].once and all(calls[model.get_submodule(n)].once for n in held)
            if name in held or (whole and not container and len(held) <= LARGEST and not larger & set(held)):
                if whole:
                    yield name
            else:
                yield from split(child, f"{name}.")

    blocks: list[Block] = []
    previous: Call | None = None
    for name in sorted(split(model, ""), key=order.__getitem__):
        call = calls[model.get_submodule(name)].plain[0]
        blocks.append(Block(name, tuple(inside(name)), call.chained_to(previous)))
        previous = call
    return blocks


def run_once(model: nn.Module, example: Tensor) -> list[str]:
    """Names of the modules that run once for a batch, with one tensor in and one out."""
    calls = record_calls(model, example)
    return [name for name, module in model.named_modules() if module in calls and calls[module].once]


def record_calls(model: nn.Module, example: Tensor) -> dict[nn.Module, Calls]:
    """How each module ran for one batch, in the order in which they began."""
    calls: dict[nn.Module, Calls] = {}
    running: list[int] = []  # of each call that has not ended, its input's version

    def began(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.setdefault(module, Calls()).times += 1
        running.append(writes_to(args[0]) if args and isinstance(args[0], Tensor) else 0)

    def ended(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        version = running.pop()
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            calls[module].plain.append(Call(args[0], output, (version, writes_to(output))))

    hooks = hooked(model.modules(), before=began, after=ended, with_kwargs=True)
    with hooks, evaluating(model), torch.no_grad():
        model(example.clone())  # a network may normalise what it gets in place
    return calls


def writes_to(x: Tensor) -> int:
    """How often a tensor was written to; in inference mode nobody counts."""
    return 0 if x.is_inference() else x._version


class ReachedError(Exception):
    """Ends a forward pass early."""


def inputs_of(model: nn.Module, name: str, batches: Sequence[Tensor]) -> list[Tensor]:
    """The input of a module for each batch; what comes behind it is not computed."""
    return [x for x, _ in calls_of(model, model.get_submodule(name), batches, before=True)]


def calls_of(
    model: nn.Module, module: nn.Module, batches: Sequence[Tensor], *, before: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """The input and the output of a module for each batch; what comes behind it is not computed.

    Args:
        module: Module of the model, with one tensor for its input.
        before: Stop in front of it, and return its input for its output.
    """
    caught: list[tuple[Tensor, Tensor]] = []

    def reached(module: nn.Module, args: Any, output: Any = None) -> None:
        caught.append((args[0], args[0] if before else output))
        raise ReachedError

    with hooked([module], before=reached if before else None, after=None if before else reached):
        for batch in batches:
            with evaluating(model), torch.no_grad(), suppress(ReachedError):
                model(batch.clone())
            yield caught.pop()


@contextmanager
def ends_of(model: nn.Module, names: Collection[str]) -> Iterator[dict[str, Tensor]]:
    """Outputs of modules in the last call of the model meanwhile, by name."""
    ends: dict[str, Tensor] = {}
    with watching_outputs(model, names, ends.__setitem__):
        yield ends


@contextmanager
def watching_outputs(model: nn.Module, names: Collection[str], take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``take`` meanwhile with the name and the output of each module of these names, at once."""
    watched = {model.get_submodule(name): name for name in names}
    with hooked(watched, after=lambda module, args, output: take(watched[module], output)):
        yield


def run_through_(block: nn.Module, batches: list[Tensor]) -> None:
    """Replace each batch by the block's output, one by one: maps of all images are large."""
    with evaluating(block), torch.no_grad():
        for index, x in enumerate(batches):
            batches[index] = block(x.clone())
