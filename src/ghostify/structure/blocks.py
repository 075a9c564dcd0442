"""The parts of a network that run one after the other, and their inputs and outputs."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.errors import InputError, spelled
from ghostify.hooks import hooked
from ghostify.modes import evaluating

# Layers in a block: an Inception module has 9, a residual block 2 to 4; more is a network within the network.
LARGEST = 10


@dataclass(frozen=True)
class Block:
    """A module with one tensor in and one out in each of its calls.

    Args:
        name: Full module name.
        convs: Layers inside, of those asked for, in the order in which they run.
        chained: True if its input is the very output of the block before, in each call.
        times: Calls for a batch: a detector's head runs once for each level of its pyramid.
        began: When its first call and its last one began, counted in calls of modules.
    """

    name: str
    convs: tuple[str, ...]
    chained: bool
    times: int = 1
    began: tuple[int, int] = (0, 0)

    def is_before(self, other: "Block") -> bool:
        """True if its last call comes before the other's first one: what the other does cannot change its outputs."""
        return self.began[1] < other.began[0]


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
    """How often a module ran, when these calls began, and those with one tensor in and one out."""

    times: int = 0
    began: list[int] = field(default_factory=list)
    plain: list[Call] = field(default_factory=list)

    @property
    def all_plain(self) -> bool:
        """True if it ran, and always with one tensor in and one out."""
        return self.times == len(self.plain) > 0


def find_blocks(model: nn.Module, layers: Collection[str], example: Tensor) -> list[Block]:
    """Split a network into blocks that hold these layers, in the order in which they run.

    A block is the largest module that is no mere container and holds at most ``LARGEST`` of the layers, convolutions
    all of them, and runs as often as each of these; where there is none, the layer itself. Layers that get anything but
    one tensor are in no block.
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

    def as_often(module: nn.Module, layer: str) -> bool:
        inner = calls[model.get_submodule(layer)]
        return inner.all_plain and inner.times == calls[module].times

    def split(parent: nn.Module, prefix: str) -> Iterator[str]:
        for child_name, child in parent.named_children():
            name = f"{prefix}{child_name}"
            held = inside(name)
            if not held:
                continue
            container = type(child) in (nn.Sequential, nn.ModuleList, nn.ModuleDict)
            whole = child in calls and calls[child].all_plain and all(as_often(child, n) for n in held)
            if name in held or (whole and not container and len(held) <= LARGEST and not larger & set(held)):
                if whole:
                    yield name
            else:
                yield from split(child, f"{name}.")

    blocks: list[Block] = []
    previous: list[Call] = []
    for name in sorted(split(model, ""), key=order.__getitem__):
        found = calls[model.get_submodule(name)]
        chained = len(previous) == found.times and all(map(Call.chained_to, found.plain, previous))
        began = (found.began[0], found.began[-1])
        blocks.append(Block(name, tuple(inside(name)), chained, found.times, began))
        previous = found.plain
    return blocks


def times_called(model: nn.Module, example: Tensor) -> dict[str, int]:
    """How often modules run for a batch, by name; of those that get one tensor and give one in each call."""
    calls = record_calls(model, example)
    return {
        name: calls[module].times
        for name, module in model.named_modules()
        if module in calls and calls[module].all_plain
    }


def record_calls(model: nn.Module, example: Tensor) -> dict[nn.Module, Calls]:
    """How each module ran for one batch, in the order in which they began."""
    calls: dict[nn.Module, Calls] = {}
    running: list[int] = []  # of each call that has not ended, its input's version
    number = count()

    def began(module: nn.Module, args: Any, kwargs: Any) -> None:
        found = calls.setdefault(module, Calls())
        found.times += 1
        found.began.append(next(number))
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


def inputs_of(model: nn.Module, name: str, batches: Sequence[Tensor], times: int = 1) -> list[Tensor]:
    """The inputs of a module for each batch; what comes behind its last call is not computed."""
    return [x for x, _ in calls_of(model, model.get_submodule(name), batches, times, before=True)]


def calls_of(
    model: nn.Module, module: nn.Module, batches: Sequence[Tensor], times: int = 1, *, before: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """The inputs and the outputs of a module for each batch; what comes behind its last call is not computed.

    Args:
        module: Module of the model, with one tensor for its input.
        times: How often it is called for a batch.
        before: Stop in front of it, and return its input for its output.
    """
    caught: list[tuple[Tensor, Tensor]] = []

    def reached(module: nn.Module, args: Any, output: Any = None) -> None:
        x, y = args[0], args[0] if before else output
        last = len(caught) == times - 1
        caught.append((x, y) if last else (x.clone(), y.clone()))  # what comes behind may change them in place
        if last:
            raise ReachedError

    with hooked([module], before=reached if before else None, after=None if before else reached):
        for batch in batches:
            with evaluating(model), torch.no_grad(), suppress(ReachedError):
                model(batch.clone())
            if len(caught) < times:
                raise InputError(
                    f"a {type(module).__name__} runs {times} times for some images and {len(caught)} for others: "
                    f"leave it by {spelled('skip')}"
                )
            yield from caught
            caught.clear()


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
