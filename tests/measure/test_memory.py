"""Peak memory holds at least what it must."""

import sys
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from ghostify.measure.memory import peak_memory_mb


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from Linux's /proc")
def test_it_is_at_least_the_weights_and_the_largest_map_and_not_twice_that() -> None:
    weights_mb, map_mb = 4 * 2000 * 2500 / 1e6, 4 * 2500 * 2000 / 1e6
    peak = peak_memory_mb(nn.Linear(2000, 2500), torch.zeros(2000, 2000))
    assert peak is not None
    assert weights_mb + map_mb < peak < 2 * (weights_mb + map_mb)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from Linux's /proc")
def test_loading_the_weights_is_not_counted() -> None:
    weights_mb = 4 * 4000 * 2500 / 1e6
    peak = peak_memory_mb(nn.Linear(4000, 2500), torch.zeros(1, 4000))
    assert peak is not None
    assert weights_mb < peak < 1.5 * weights_mb, "while they are unpickled they are there twice"


@pytest.mark.skipif(sys.platform != "linux", reason="no process is started elsewhere")
def test_what_other_processes_are_to_import_first_stays_as_it_was() -> None:
    forkserver = import_module("multiprocessing.forkserver")
    before = forkserver._forkserver._preload_modules
    try:
        forkserver.set_forkserver_preload(["json"])
        assert peak_memory_mb(nn.Linear(4, 4), torch.zeros(1, 4)) is not None
        assert forkserver._forkserver._preload_modules == ["json"]
    finally:
        forkserver.set_forkserver_preload(before)


def test_a_network_that_cannot_be_handed_to_another_process_has_no_figure() -> None:
    network = nn.Linear(4, 4)
    network.register_forward_hook(lambda module, inputs, output: None)
    assert peak_memory_mb(network, torch.zeros(1, 4)) is None


class OnGpu(Tensor):
    """A tensor that says that it is on a GPU."""

    is_cuda = True


class Gpu:
    """A GPU's memory in bytes, as PyTorch's allocator tells it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allocated: int) -> None:
        self.allocated = self.peak = allocated
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.reset)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: self.allocated)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: self.peak)

    def reset(self, device: object = None) -> None:
        self.peak = self.allocated

    def take(self, size: int) -> None:
        self.allocated += size
        self.peak = max(self.peak, self.allocated)


class Allocating(nn.Module):
    """10,000 weights in two places and 5,000 statistics; takes maps and scratch of 3 MB, of the GPU, and frees them."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu, self.calls = gpu, 0
        self.weight = self.same_weight = nn.Parameter(torch.zeros(10_000))
        self.part = nn.Buffer(torch.zeros(5_000)[:100])

    def forward(self, x: Tensor) -> Tensor:
        if self.calls == 0:
            self.gpu.take(8_000_000)  # a library's workspace, which stays
        self.calls += 1
        self.gpu.take(3_000_000)
        self.gpu.take(-3_000_000)
        return x


def test_a_gpus_peak_is_the_networks_whatever_else_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    example = torch.zeros(1, 3, 4, 4).as_subclass(OnGpu)
    for others in (0, 500_000_000):
        network = Allocating(Gpu(monkeypatch, allocated=60_000 + others))
        peak = peak_memory_mb(network, example)
        assert peak == pytest.approx((10_000 * 4 + 5_000 * 4 + 3_000_000) / 1e6)
