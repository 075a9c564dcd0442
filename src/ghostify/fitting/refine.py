"""Refine weights by gradients on the original's outputs, without labels."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.bf16 import LearningInBf16
from ghostify.data.augment import random_crop_flip
from ghostify.layers import GhostConv2d
from ghostify.measure.environment import computes_in_bf16
from ghostify.modes import evaluating
from ghostify.progress import Progress
from ghostify.structure.blocks import ends_of
from ghostify.structure.surgery import tensors_in

BETAS = (0.9, 0.99)  # steps are few: squared gradients are remembered over some hundred
WARM_UP = 0.1  # of all steps
LARGEST_SHIFT = 1 / 8  # of an image's side


@dataclass(frozen=True)
class Refinement:
    """The length of a refinement and its steps.

    Args:
        lr: Adam's learning rate at its peak.
        passes: Number of passes over the images.
        batch_size: Images per step.
    """

    lr: float
    passes: int
    batch_size: int = 16


# A learning rate that suits a block spoils the whole. What was tried: docs/keeping.md.
BLOCK, WHOLE = Refinement(6e-3, 3), Refinement(3e-4, 6)


def refine_(
    block: nn.Module,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    generator: torch.Generator,
    *,
    how: Refinement = BLOCK,
) -> None:
    """Train all weights of a block on mean squared error, BatchNorm statistics held (Adam, one cycle).

    Where that does not lower the error, the weights are as before.

    Args:
        block: Changed in place.
        inputs: Its inputs, batch by batch.
        targets: Its target outputs, batch by batch.
        generator: Source of the order of the images; on the CPU.
    """
    steps = math.ceil(how.passes * sum(map(len, inputs)) / how.batch_size)

    def error() -> float:
        return sum(float(apart(block(x.clone()), target)) * len(x) for x, target in zip(inputs, targets, strict=True))

    with undone_unless_less(block, error), learning(block, steps, how.lr) as step:
        for _ in range(steps):
            x, target = draw((inputs, targets), how.batch_size, generator)
            with computing(x):
                output = block(x)
            if not output.requires_grad:  # its code runs without gradients
                break
            step(apart(output, target))


def refine_whole_(
    ghost: nn.Module,
    original: nn.Module,
    ends: Mapping[str, Tensor | None],
    batches: Sequence[Tensor],
    others: Sequence[Tensor],
    generator: torch.Generator,
    *,
    how: Refinement = WHOLE,
    progress: Progress | None = None,
) -> None:
    """Train all weights on the original's output and on the ends of its blocks, BatchNorm statistics held.

    The images are shifted and mirrored at random, and the original computes their targets anew: on the images as they
    are, the network would overfit to these few. Where the output is not nearer to the original's on other images at the
    end, the weights are as before.

    Args:
        ghost: Changed in place.
        ends: Names of the blocks, and indices of the original's channels that the ghost still has there; None for all.
        batches: Inputs ``[batch, channels, height, width]``.
        others: Inputs that judge: neither these weights nor any fit before may have learnt them.
        generator: Source of the order of the images and their shifts; on the CPU.
        progress: Called at each step.
    """
    steps = math.ceil(how.passes * sum(map(len, batches)) / how.batch_size)
    # By the output alone, where it can be compared: it may come nearer while the ends of blocks do not.
    judged_ends = {} if gives_numbers(ghost, others[0][:1]) else ends
    with (
        evaluating(original),
        ends_apart(ghost, original, ends) as loss_of,
        ends_apart(ghost, original, judged_ends) as apart_on,
    ):

        def loss_on_others() -> float:
            return sum(float(apart_on(x)) * len(x) for x in others)

        with undone_unless_less(ghost, loss_on_others), learning(ghost, steps, how.lr) as step:
            for index in range(steps):
                (x,) = draw((batches,), how.batch_size, generator)
                x = shifted(x, generator)
                with computing(x):
                    loss = loss_of(x)
                if not loss.requires_grad:  # its code runs without gradients
                    break
                step(loss)
                if progress:
                    progress("refine the whole", f"step {index + 1}", index + 1, steps)


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images shifted and mirrored at random."""
    return random_crop_flip(x, int(LARGEST_SHIFT * min(x.shape[2:])), flip=True, generator=generator)


@contextmanager
def ends_apart(
    ghost: nn.Module, original: nn.Module, ends: Mapping[str, Tensor | None]
) -> Iterator[Callable[[Tensor], Tensor]]:
    """A loss of a batch meanwhile: the networks' mean distance at the ends of blocks, and that at the output."""
    with ends_of(original, ends) as targets, ends_of(ghost, ends) as outputs:

        def loss_of(x: Tensor) -> Tensor:
            with torch.no_grad():
                target = original(x.clone())
            return hints_distance(ghost(x.clone()), target, ends, outputs, targets)

        yield loss_of


@contextmanager
def undone_unless_less(model: nn.Module, error: Callable[[], float]) -> Iterator[None]:
    """Let a network change meanwhile; its weights are as before unless that lowered its error."""

    def now() -> float:
        with evaluating(model), torch.no_grad():
            return error()

    start, before = copy.deepcopy(model.state_dict()), now()
    yield
    if not now() < before:  # nothing was left to learn but rounding, or it came to no number
        model.load_state_dict(start)


@contextmanager
def learning(model: nn.Module, steps: int, lr: float) -> Iterator[Callable[[Tensor], None]]:
    """Let all weights learn meanwhile, in eval mode; yields a function that takes a step down a loss."""
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    before = [p.requires_grad for p in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=lr, betas=BETAS, fused=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps, pct_start=WARM_UP, cycle_momentum=False
    )

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()

    try:
        with evaluating(model), torch.enable_grad():
            for module in model.modules():
                if isinstance(module, GhostConv2d):
                    module.train()  # it has no statistics, and learns faster so
            yield step
    finally:
        for parameter, learns in zip(parameters, before, strict=True):
            parameter.requires_grad_(learns)
            parameter.grad = None


@torch.no_grad()
def gives_numbers(model: nn.Module, x: Tensor) -> bool:
    """True for a network that returns tensors of numbers."""
    with evaluating(model):
        return any(has_numbers(tensor, tensor) for tensor in tensors_in(model(x.clone())))


def has_numbers(output: Any, target: Any) -> bool:
    """True for two tensors of numbers that can be compared."""
    tensors = isinstance(output, Tensor) and isinstance(target, Tensor)
    return tensors and target.is_floating_point() and target.numel() > 1 and output.shape == target.shape


def apart(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over variance."""
    target = target.float()
    return nn.functional.mse_loss(output.float(), target) / target.var().clamp_min(1e-12)


def hints_distance(
    output: Any,
    target: Any,
    ends: Mapping[str, Tensor | None],
    outputs: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
) -> Tensor:
    """Distance of a network's output from its original's, and of the ends of its blocks.

    Args:
        output: The network's output, in any nesting of tensors.
        target: The original's, which may lack the last of these tensors: some networks add others in training.
        ends, outputs, targets: See ``ends_distance``; there may be none.
    """
    pairs = zip(tensors_in(output), tensors_in(target), strict=False)
    returned = [apart(*pair) for pair in pairs if has_numbers(*pair)]
    parts = [torch.stack(returned).mean()] if returned else []
    if ends:
        parts.append(ends_distance(outputs, targets, ends))
    return torch.stack(parts).sum()


def ends_distance(
    outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], ends: Mapping[str, Tensor | None]
) -> Tensor:
    """Mean over the ends of blocks of mean squared error over variance.

    Args:
        ends: Names of the blocks, and the target channel of each output channel; None for all, in order.
    """
    apart_at = [
        apart(outputs[name], targets[name] if rows is None else targets[name][:, rows]) for name, rows in ends.items()
    ]
    return torch.stack(apart_at).mean()


def draw(parts: Sequence[Sequence[Tensor]], size: int, generator: torch.Generator) -> list[Tensor]:
    """Random images of one size, the same ones of each list of batches."""
    sizes: dict[torch.Size, list[tuple[int, int]]] = {}
    for batch, x in enumerate(parts[0]):
        sizes.setdefault(x.shape[1:], []).extend((batch, row) for row in range(len(x)))
    places = next(iter(sizes.values()))
    if len(sizes) > 1:
        chances = torch.tensor([float(len(found)) for found in sizes.values()], device="cpu")
        places = list(sizes.values())[int(torch.multinomial(chances, 1, generator=generator))]
    drawn = [places[i] for i in torch.randint(len(places), (size,), generator=generator, device="cpu").tolist()]
    # Unlike a stack, this keeps the order in memory.
    return [torch.cat([part[batch][row : row + 1] for batch, row in drawn]) for part in parts]


def computing(x: Tensor) -> LearningInBf16:
    """In bf16 where the processor computes in it: its rounding is far below the errors that refinement is for."""
    enabled = x.dtype == torch.float32 and computes_in_bf16(x.device)
    return LearningInBf16(x.device, enabled=enabled, cache_enabled=False)
