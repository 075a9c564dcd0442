"""Refine weights on what the original gave; no labels."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ghostify.data.augment import random_crop_flip
from ghostify.layers import GhostConv2d
from ghostify.measure.environment import computes_in_bf16
from ghostify.modes import evaluating
from ghostify.progress import Progress
from ghostify.structure.blocks import ends_of

BETAS = (0.9, 0.99)  # steps are few: squared gradients are remembered over some hundred
WARM_UP = 0.1  # of all steps
LARGEST_SHIFT = 1 / 8  # of an image's side


@dataclass(frozen=True)
class Refinement:
    """How long weights are refined, and in which steps.

    Args:
        lr: Adam's learning rate at its peak.
        passes: Over the images.
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
        inputs: Batches of what it gets.
        targets: Batches of what it should give.
        generator: Of the order of the images; on the CPU.
    """
    steps = math.ceil(how.passes * sum(map(len, inputs)) / how.batch_size)

    def error() -> float:
        return sum(float(apart(block(x.clone()), target)) * len(x) for x, target in zip(inputs, targets, strict=True))

    with undone_unless_less(block, error), learning(block, steps, how.lr) as step:
        for _ in range(steps):
            x, target = draw((inputs, targets), how.batch_size, generator)
            with computing(x):
                output = block(x)
            step(apart(output, target))


def refine_whole_(
    ghost: nn.Module,
    original: nn.Module,
    ends: Mapping[str, Tensor | None],
    batches: Sequence[Tensor],
    generator: torch.Generator,
    *,
    how: Refinement = WHOLE,
    progress: Progress | None = None,
) -> None:
    """Train all weights on the original's output and on the ends of its blocks, BatchNorm statistics held.

    The images are shifted and mirrored at random, and the original says anew what they should give: on the
    images as they are, the network would learn those few by heart. Where that does not lower the loss on other
    shifts of the images, the weights are as before.

    Args:
        ghost: Changed in place.
        ends: Names of the blocks, and which of the original's maps the ghost still has there; None for all.
        batches: Inputs ``[batch, channels, height, width]``.
        generator: Of the order of the images and their shifts; on the CPU.
        progress: Told of each step.
    """
    steps = math.ceil(how.passes * sum(map(len, batches)) / how.batch_size)
    others = [shifted(batch, generator) for batch in batches[::4]]  # enough to tell better from worse
    with evaluating(original), ends_apart(ghost, original, ends) as loss_of:

        def loss_on_others() -> float:
            return sum(float(loss_of(x)) * len(x) for x in others)

        with undone_unless_less(ghost, loss_on_others), learning(ghost, steps, how.lr) as step:
            for index in range(steps):
                (x,) = draw((batches,), how.batch_size, generator)
                x = shifted(x, generator)
                with computing(x):
                    loss = loss_of(x)
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
    """Gives what tells for a batch how far the networks are apart: mean over the ends of blocks, and the output."""
    with ends_of(original, ends) as wanted, ends_of(ghost, ends) as given:

        def loss_of(x: Tensor) -> Tensor:
            with torch.no_grad():
                target = original(x.clone())
            output = ghost(x.clone())
            parts = [ends_distance(given, wanted, ends)] if ends else []
            if isinstance(target, Tensor):  # a detector's backbone has several outputs, all of them ends of blocks
                parts.append(apart(output, target))
            return torch.stack(parts).sum()

        yield loss_of


@contextmanager
def undone_unless_less(model: nn.Module, error: Callable[[], float]) -> Iterator[None]:
    """Let a network change meanwhile; where its error is not less then, its weights are as before."""

    def now() -> float:
        with evaluating(model), torch.no_grad():
            return error()

    start, before = copy.deepcopy(model.state_dict()), now()
    yield
    if not now() < before:  # nothing was left to learn but rounding, or it came to no number
        model.load_state_dict(start)


@contextmanager
def learning(model: nn.Module, steps: int, lr: float) -> Iterator[Callable[[Tensor], None]]:
    """Let all weights learn meanwhile, in eval mode; gives what takes a step down a loss."""
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


def apart(given: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error over variance."""
    wanted = wanted.float()
    return nn.functional.mse_loss(given.float(), wanted) / wanted.var().clamp_min(1e-12)


def ends_distance(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], ends: Mapping[str, Tensor | None]
) -> Tensor:
    """Mean over the ends of blocks of how far these are apart.

    Args:
        ends: Names of the blocks, and which of the wanted maps the given ones are; None for all, in order.
    """
    apart_at = [
        apart(given[name], wanted[name] if rows is None else wanted[name][:, rows]) for name, rows in ends.items()
    ]
    return torch.stack(apart_at).mean()


def draw(parts: Sequence[Sequence[Tensor]], size: int, generator: torch.Generator) -> list[Tensor]:
    """The same random images of each of some lists of batches."""
    places = [(batch, row) for batch, x in enumerate(parts[0]) for row in range(len(x))]
    drawn = [places[i] for i in torch.randint(len(places), (size,), generator=generator).tolist()]
    # Unlike a stack, this keeps the order in memory.
    return [torch.cat([part[batch][row : row + 1] for batch, row in drawn]) for part in parts]


def computing(x: Tensor) -> torch.autocast:
    """In bf16 where the processor computes in it: its rounding is far below the errors that refinement is for."""
    return torch.autocast(
        x.device.type, torch.bfloat16, enabled=x.dtype == torch.float32 and computes_in_bf16(x.device)
    )
