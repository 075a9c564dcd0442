"""The rival PRACTISE: whole residual blocks dropped, by Wang and Wu 2023, arXiv:2202.07861.

Without each block in turn, 1×1 adaptors that begin as the identity stand behind the convolutions that write what it
would read and in front of those that read what it would write; they alone learn the features before pooling. The
error that is left, over the time that the block takes, is its score: the lowest go. Then all weights learn these
features, without adaptors. Optimizer and rates are the authors'; they take 2,000 steps of 64 images for each of both
on a GPU.
"""

import copy
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from rivals import NotOffered
from torch import Tensor, nn

from ghostify import compare, count, deploy
from ghostify.changes import registry
from ghostify.changes.change import Described
from ghostify.errors import InputError
from ghostify.fitting.refine import computing, draw, shifted
from ghostify.modes import evaluating
from ghostify.structure.blocks import Block, Calls, ends_of, find_blocks, record_calls
from ghostify.structure.residual import residual_sums
from ghostify.structure.surgery import replace_modules_

LR, MOMENTUM, DECAY = 0.02, 0.9, 1e-4
FALLS_AFTER = 0.4  # of the steps, to a tenth; and again
JUDGED = 256  # images on which the error that is left is measured


@registry.register
class Dropped(NotOffered):
    """Makes what stands in a block's place known to network files; plans do not offer it."""

    kind = "dropped block"
    layers: ClassVar[Described] = {nn.Identity: lambda layer: {}}


@dataclass(frozen=True)
class Steps:
    """How long it learns.

    Args:
        adaptors: Steps for each block that could go.
        whole: Steps for all weights.
        batch_size: Images of a step.
    """

    adaptors: int
    whole: int
    batch_size: int


def practise(
    original: nn.Module, images: Sequence[Tensor], macs: int, *, steps: Steps, seed: int, scores: Path
) -> nn.Module:
    """The network with at most so many multiply-adds, without the blocks of the lowest scores.

    Args:
        scores: JSON that keeps the blocks' scores, for other sizes.
    Raises:
        InputError: If that is out of reach.
    """
    generator = torch.Generator().manual_seed(seed)
    found = json.loads(scores.read_text()) if scores.exists() else {}
    shape = tuple(images[0].shape[1:])
    times: dict[tuple[torch.Size, int], float] = {}
    calls = record_calls(original, images[0][:1])
    for name in droppable(original, images[0]):
        if name not in found:
            block = original.get_submodule(name)
            alike = shape_of(calls, block), sum(parameter.numel() for parameter in block.parameters())
            if alike not in times:
                times[alike] = share_of_time(original, name, images[0][:1])
            found[name] = error_without(original, name, images, steps, generator) / times[alike]
            scores.parent.mkdir(parents=True, exist_ok=True)
            scores.write_text(json.dumps(found, indent=1) + "\n")
    model = copy.deepcopy(original).eval()
    for name in sorted(found, key=found.__getitem__):
        if count(model, shape).macs <= macs:
            break
        model = without(model, name)
    if count(model, shape).macs > macs:
        raise InputError(f"without {len(found)} blocks {count(model, shape).macs:,} multiply-adds are left")
    learn_(model, original, list(model.parameters()), images, steps.whole, steps.batch_size, generator, training=True)
    return model.eval()


def blocks_of(model: nn.Module, example: Tensor) -> list[Block]:
    """The network's blocks in their order."""
    convs = [name for name, module in model.named_modules() if type(module) is nn.Conv2d]
    return find_blocks(model, convs, example)


def droppable(model: nn.Module, images: Tensor) -> dict[str, str]:
    """Names of the blocks that add a convolution's output to their own input, and of these convolutions."""
    sums = residual_sums(model, blocks_of(model, images[:1]), images[:8])
    return {name: found.conv for name, found in sums.items()}


def without(model: nn.Module, block: str) -> nn.Module:
    """A copy with nothing in a block's place."""
    copied = copy.deepcopy(model)
    return replace_modules_(copied, {copied.get_submodule(block): nn.Identity()})


def share_of_time(original: nn.Module, block: str, example: Tensor) -> float:
    """The share of the network's time that a block takes in OpenVINO, one thread."""
    before, after = (deploy(model, example, engine="openvino") for model in (original, without(original, block)))
    return max(1 - compare(before, after, example, engine="openvino", threads=1).ratio, 1e-3)


def error_without(
    original: nn.Module, block: str, images: Sequence[Tensor], steps: Steps, generator: torch.Generator
) -> float:
    """The error of the features without a block, after its adaptors have learnt."""
    model = without(original, block)
    writers, readers = around(original, block, images[0])
    convs = ([model.get_submodule(name) for name in side] for side in (writers, readers))
    with adapted(*convs) as adaptors:
        learn_(model, original, adaptors, images, steps.adaptors, steps.batch_size, generator)
        error = features_error(model, original, images)
    return error if math.isfinite(error) else math.inf


def around(model: nn.Module, block: str, images: Tensor) -> tuple[list[str], list[str]]:
    """Convolutions that write the maps that a block adds to, and those behind it that read them: their names."""
    writes = droppable(model, images)
    blocks, calls = blocks_of(model, images[:1]), record_calls(model, images[:1])
    shape = shape_of(calls, model.get_submodule(block))
    here = [each.name for each in blocks].index(block)
    writers, readers = [], []
    for each in reversed(blocks[:here]):
        if shape_of(calls, model.get_submodule(each.name)) != shape:
            break
        if each.name in writes:
            writers.append(writes[each.name])
            continue
        # The stage's first block: its last convolution, and that of its shortcut.
        of_shape = [name for name in each.convs if shape_of(calls, model.get_submodule(name)) == shape]
        shortcuts = [name for name in of_shape if is_shortcut(model, name, each.name, calls)]
        writers += [*[name for name in of_shape if name not in shortcuts][-1:], *shortcuts]
    for each in blocks[here + 1 :]:
        readers += [name for name in each.convs if reads(model, name, each.name, calls)]
        if shape_of(calls, model.get_submodule(each.name)) != shape:
            break
    return writers, readers


def reads(model: nn.Module, conv: str, block: str, calls: dict[nn.Module, Calls]) -> bool:
    """True if a convolution takes its block's own input."""
    taken, given = (calls[model.get_submodule(name)].plain[0].input for name in (conv, block))
    return taken is given


def is_shortcut(model: nn.Module, conv: str, block: str, calls: dict[nn.Module, Calls]) -> bool:
    return conv != block and model.get_submodule(conv).kernel_size == (1, 1) and reads(model, conv, block, calls)


def shape_of(calls: dict[nn.Module, Calls], module: nn.Module) -> torch.Size:
    return calls[module].plain[0].output.shape


@contextmanager
def adapted(writers: Sequence[nn.Conv2d], readers: Sequence[nn.Conv2d]) -> Iterator[list[nn.Parameter]]:
    """Adaptors behind some convolutions and in front of others meanwhile: their weights."""
    parameters, hooks = [], []
    for conv in writers:
        weight = identity(conv.out_channels)
        parameters.append(weight)
        hooks.append(conv.register_forward_hook(lambda conv, x, y, weight=weight: nn.functional.conv2d(y, weight)))
    for conv in readers:
        weight = identity(conv.in_channels)
        parameters.append(weight)
        hooks.append(conv.register_forward_pre_hook(lambda conv, x, weight=weight: nn.functional.conv2d(x[0], weight)))
    try:
        yield parameters
    finally:
        for hook in hooks:
            hook.remove()


def identity(channels: int) -> nn.Parameter:
    return nn.Parameter(torch.eye(channels)[:, :, None, None].clone())


def learn_(
    model: nn.Module,
    original: nn.Module,
    parameters: list[nn.Parameter],
    images: Sequence[Tensor],
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    *,
    training: bool = False,
) -> None:
    """Let some weights learn the original's features before pooling, on shifted and mirrored images.

    Args:
        training: In train mode, as the authors do for all weights.
    """
    end = before_pooling(original, images[0][:1])
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, max(1, int(FALLS_AFTER * steps)))
    model.train(training)
    with evaluating(original), ends_of(model, [end]) as given, ends_of(original, [end]) as wanted:
        for _ in range(steps):
            (x,) = draw((images,), batch_size, generator)
            x = shifted(x, generator).contiguous(memory_format=torch.channels_last)  # learnt in less time
            with computing(x):
                with torch.no_grad():
                    original(x)
                model(x)
                loss = nn.functional.mse_loss(given[end].float(), wanted[end].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.requires_grad_(True).eval()


@torch.no_grad()
def features_error(model: nn.Module, original: nn.Module, images: Sequence[Tensor]) -> float:
    """Mean squared error of the features before pooling."""
    end = before_pooling(original, images[0][:1])
    errors, seen = [], 0
    with evaluating(model), evaluating(original), ends_of(model, [end]) as given, ends_of(original, [end]) as wanted:
        for x in images:
            original(x)
            model(x)
            errors.append(float(nn.functional.mse_loss(given[end], wanted[end])) * len(x))
            seen += len(x)
            if seen >= JUDGED:
                break
    return sum(errors) / seen


def before_pooling(model: nn.Module, example: Tensor) -> str:
    """Name of the last module whose output is maps of more than a pixel."""
    ended: list[nn.Module] = []

    def took(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2:].numel() > 1:
            ended.append(module)

    hooks = [module.register_forward_hook(took) for module in model.modules() if module is not model]
    with evaluating(model), torch.no_grad():
        model(example)
    for hook in hooks:
        hook.remove()
    return next(name for name, module in model.named_modules() if module is ended[-1])
