"""A network's work on a GPU, recorded once and replayed: small networks wait for their launches, not for the GPU."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def recording(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Have networks recorded and replayed meanwhile; at the end they compute as their classes do again."""
    # PyTorch records on a stream of its own and then warns that gradients gather on another: that is meant.
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    try:
        yield
    finally:
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(True)  # as it is unless somebody asks
        for network in networks:
            forget_(network)


def record_(network: nn.Module, x: Tensor) -> None:
    """Let a network replay its forward and backward pass as CUDA graphs while it is in the mode that it is in now.

    Its weights may change, but not its parameters' places in memory, nor the shape of its input; in the other mode it
    computes as before. To be called within ``recording``, under the autocast, without its cache, and with gradients
    enabled as they will be.

    Args:
        x: An input; kept, and overwritten by later ones.
    """
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]
    torch.cuda.make_graphed_callables(network, (x,))
    # The runs before the recording moved BatchNorm's statistics.
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)


def forget_(network: nn.Module) -> None:
    """Let a recorded network compute as its class does again."""
    network.__dict__.pop("forward", None)
