"""The rival: the same network with fewer channels everywhere."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch_pruning
from torch import nn

from ghostify.errors import InputError
from ghostify.measure.count import count
from ghostify.modes import evaluating
from ghostify.timelimit import TimeLimitError, within

# Trials of the bisection, each of which builds the network's whole dependency graph, and how near to the
# target is near enough to stop before.
TRIALS, NEAR = 10, 0.99
# Seconds for one of them: its repair of the graph may go round in circles for ever.
LIMIT = 180.0


def narrow(
    model: nn.Module,
    input_shape: Sequence[int],
    target_macs: int,
    *,
    importance: torch_pruning.importance.Importance | None = None,
    prepare: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """Copy a network with its layers narrowed in proportion, so that it costs at most ``target_macs``.

    Each layer loses the same share of its channels, by default those with the smallest filters; the network's
    output keeps its size. Torch-Pruning (Fang et al. 2023, arXiv:2301.12900) finds the layers that must lose the
    same channels together. Channels that reach a sum through a zero-padded shortcut stay, because there their
    positions differ on both sides.

    Args:
        model: Any network; left untouched.
        input_shape: One input's, without batch.
        target_macs: Multiply-adds not to exceed.
        importance: Torch-Pruning's criterion for the channels to lose; None: the L2 norm of their filters.
        prepare: Called with the copy before, for a criterion that reads gradients.
    Returns:
        The widest of the narrowed copies that keep to the target.
    Raises:
        InputError: If the network cannot be narrowed so far.
    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 10, 3))
        >>> half = narrow(net, (3, 8, 8), count(net, (3, 8, 8)).macs // 2)
        >>> half[0].out_channels, half[1].out_channels
        (16, 10)
    """
    low, high = 0.0, 0.95
    # Work shrinks with input channels times output channels: a first guess, right for most networks.
    share = min(high, max(low, 1 - (target_macs / count(model, input_shape).macs) ** 0.5))
    best: nn.Module | None = None
    best_macs = 0
    for _ in range(TRIALS):
        candidate = narrowed_within_limit(partial(pruned, model, input_shape, share, importance, prepare), model)
        macs = count(candidate, input_shape).macs
        if best_macs < macs <= target_macs:
            best, best_macs = candidate, macs
        if best_macs >= NEAR * target_macs:
            break
        low, high = (share, high) if macs > target_macs else (low, share)
        share = (low + high) / 2
    if best is None:
        raise InputError(f"{type(model).__name__} cannot be narrowed to {target_macs:,} MACs")
    return best


def narrowed_within_limit(prune: Callable[[], nn.Module], model: nn.Module) -> nn.Module:
    """A pruned copy, or a refusal where Torch-Pruning does not come to an end."""
    try:
        return within(LIMIT, prune)
    except TimeLimitError as error:
        raise InputError(f"{type(model).__name__} cannot be narrowed by Torch-Pruning: {error}") from error


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


@contextmanager
def out_of_place(model: nn.Module) -> Iterator[None]:
    """Let activations make new tensors meanwhile: one in place hides the layer before it from Torch-Pruning."""
    in_place: list[Any] = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    try:
        for module in in_place:
            module.inplace = False
        yield
    finally:
        for module in in_place:
            module.inplace = True


def pruned(
    model: nn.Module,
    input_shape: Sequence[int],
    share: float,
    importance: torch_pruning.importance.Importance | None = None,
    prepare: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """A copy with ``share`` of each layer's channels gone."""
    copied = copy.deepcopy(model)
    if prepare is not None:
        prepare(copied)
    first = next(copied.parameters(), torch.empty(0))
    example = torch.zeros(1, *input_shape, device=first.device, dtype=first.dtype)
    try:
        with evaluating(copied):
            with torch.no_grad():
                output = copied(example)
            outputs = {t.shape[1] for t in (output if isinstance(output, tuple) else (output,))}
            keep = [m for m in copied.modules() if getattr(m, "out_features", getattr(m, "out_channels", 0)) in outputs]
            with traceable(copied), out_of_place(copied):
                pruner = torch_pruning.pruner.BasePruner(
                    copied,
                    example,
                    importance=importance or torch_pruning.importance.MagnitudeImportance(p=2),
                    pruning_ratio=share,
                    ignored_layers=keep,
                )
            for group in pruner.step(interactive=True):
                if not any("ConstantPadNd" in str(item.dep.target.name) for item in group):
                    group.prune()
            with torch.no_grad():
                copied(example)
    except Exception as error:  # whatever Torch-Pruning or the network's own code may stumble over
        raise InputError(f"{type(model).__name__} cannot be narrowed by Torch-Pruning: {error}") from error
    return copied
