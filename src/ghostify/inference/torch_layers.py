"""Times of a network's convolutions in PyTorch, each alone: a compiled network has no profile by layer."""

from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor, nn

from ghostify.errors import InputError, first_sentence
from ghostify.inference.compare import TorchRunner
from ghostify.inference.explain import around
from ghostify.measure.latency import gpu_times_ms

CALLS = 10  # of each convolution, of which the least time counts
RECORDED = 20  # calls in a recording: one of a small convolution is hardly longer than its start


@torch.no_grad()
def torch_layer_ms(
    deployed: nn.Module, example: Tensor, *, homes: Collection[str], compiled: bool, threads: int
) -> dict[str, float]:
    """Milliseconds of a batch in each of some layers, and under "" of all else.

    Args:
        deployed: A network, deployed.
        example: One batch on its device, in its data type.
        homes: Module names of the layers as they were before the network was deployed or became a ghost.
        compiled: On a GPU a compiled network is replayed, and so its layers' kernels are timed without their launches.
        threads: CPU threads.
    Raises:
        InputError: If the network cannot be recorded on a GPU.
    """
    found = dict.fromkeys((*homes, ""), 0.0)
    recorded = compiled and example.is_cuda
    for name, convolution, x in convolutions_with_inputs(deployed, example):
        home = next((n for n in around(name.removeprefix("network.")) if n in found), "")
        found[home] += least_ms(convolution, x, recorded=recorded, threads=threads)
    whole = least_ms(deployed, example, recorded=recorded, threads=threads)
    found[""] += max(0.0, whole - sum(found.values()))
    return found


def convolutions_with_inputs(network: nn.Module, example: Tensor) -> list[tuple[str, nn.Conv2d, Tensor]]:
    """Each call of each convolution: its module name, and what it is given."""
    found: list[tuple[str, nn.Conv2d, Tensor]] = []

    def keep(name: str, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        found.append((name, module, given[0].clone()))

    convolutions = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_pre_hook(partial(keep, name)) for name, module in convolutions]
    try:
        network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def least_ms(module: nn.Module, x: Tensor, *, recorded: bool, threads: int) -> float:
    """Milliseconds of the fastest of some calls."""
    if recorded:
        return min(gpu_times_ms(replay_of(partial(module, x)), CALLS)) / RECORDED
    return min(TorchRunner(module, x, compiled=False, threads=threads).times_ms(CALLS))


def replay_of(call: Callable[[], object]) -> Callable[[], None]:
    """Record so many calls as one CUDA graph, and give what replays it.

    Not by ``torch.cuda.graph``, which collects garbage and empties the cache each time.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for _ in range(3):  # what is chosen and allocated in the first calls cannot be recorded
                call()
            stream.synchronize()
            graph.capture_begin()
            try:
                for _ in range(RECORDED):
                    call()
            finally:
                graph.capture_end()
    except RuntimeError as error:  # PyTorch's and CUDA's, of what a network does between its kernels
        raise InputError(f"the network cannot be recorded as a CUDA graph: {first_sentence(error)}") from error
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay
