"""Hooks on a network's modules for the time of a measurement, all taken off again."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


@contextmanager
def hooked(
    modules: Iterable[nn.Module],
    *,
    before: Callable[..., Any] | None = None,
    after: Callable[..., Any] | None = None,
    with_kwargs: bool = False,
) -> Iterator[None]:
    """Have functions called before or after modules run meanwhile; none is left behind, whatever happens.

    Args:
        modules: Each gets both hooks.
        before: As ``nn.Module.register_forward_pre_hook`` takes it.
        after: As ``nn.Module.register_forward_hook`` takes it.
        with_kwargs: Give both the keyword arguments of the call, too.
    Example:
        >>> import torch
        >>> layer, shapes = nn.Linear(2, 3), []
        >>> with hooked([layer], after=lambda module, args, output: shapes.append(tuple(output.shape))):
        ...     _ = layer(torch.zeros(4, 2))
        >>> _ = layer(torch.zeros(5, 2))
        >>> shapes
        [(4, 3)]
    """
    with ExitStack() as stack:
        for module in modules:
            if before is not None:
                stack.enter_context(module.register_forward_pre_hook(before, with_kwargs=with_kwargs))
            if after is not None:
                stack.enter_context(module.register_forward_hook(after, with_kwargs=with_kwargs))
        yield
