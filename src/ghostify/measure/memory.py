"""Peak memory of inference."""

import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.modes import evaluating

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory_mb(model: nn.Module, example: Tensor, *, threads: int = 1) -> float | None:
    """Peak memory that a network needs to run one batch in eager PyTorch: weights, maps and scratch.

    On a GPU it is the network's tensors and the growth of the allocator's peak in the second call; whatever else is
    there, such as other networks or the libraries' workspaces, is not in it. On a CPU it is the growth of the resident
    memory of a fresh process, from before the network is loaded to the peak of its calls, without the memory of PyTorch
    itself.

    Args:
        example: One batch ``[batch, channels, height, width]`` on the network's device.
        threads: CPU threads.
    Returns:
        Megabytes (10⁶ bytes); None on systems that keep no such count (Linux does), or if the network cannot be
        handed to another process.
    """
    if example.is_cuda:
        return gpu_peak_mb(model, example)
    if not CLEAR.exists():
        return None
    try:
        pickled = pickle.dumps(model)
    except Exception:  # noqa: BLE001  # a lambda, a hook: whatever it holds that has no name to be found by
        return None
    # A fork of a server that has imported PyTorch and nothing else; a fork of this process would start
    # with all that it holds, and a new process would import PyTorch each time.
    context = multiprocessing.get_context("forkserver")
    try:
        with preloading(__name__), ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(grown_mb, pickled, example.numpy(), threads).result()
    except (BrokenProcessPool, AttributeError, ImportError):  # there, its class is not to be found
        return None


def gpu_peak_mb(model: nn.Module, example: Tensor) -> float:
    device = example.device
    with evaluating(model), torch.inference_mode():
        model(example)
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        model(example)
        torch.cuda.synchronize(device)
    return (own_bytes(model) + torch.cuda.max_memory_allocated(device) - before) / 1e6


def own_bytes(model: nn.Module) -> int:
    """Size of a network's weights and statistics, each storage counted once."""
    storages = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@contextmanager
def preloading(module: str) -> Iterator[None]:
    """Let the server that processes are forked from import a module first, where it is started meanwhile."""
    forkserver: Any = import_module("multiprocessing.forkserver")  # not on Windows
    before = forkserver._forkserver._preload_modules
    forkserver.set_forkserver_preload([module])
    try:
        yield
    finally:
        forkserver.set_forkserver_preload(before)


def grown_mb(pickled: bytes, example: object, threads: int) -> float:
    torch.set_num_threads(threads)
    torch.nn.Conv2d(1, 1, 1)(torch.zeros(1, 1, 8, 8))  # the libraries' own start is not the network's
    before = status_kb("VmRSS")
    model = pickle.loads(pickled)
    CLEAR.write_text("5")  # the peak is from now on: unpickling holds the weights twice for a moment
    with evaluating(model), torch.inference_mode():
        for _ in range(2):
            model(torch.as_tensor(example))
    return (status_kb("VmHWM") - before) * 1024 / 1e6


def status_kb(key: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])
