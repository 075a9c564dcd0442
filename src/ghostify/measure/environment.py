"""The machine and the versions that a figure was measured on."""

import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch


def cpu_capabilities() -> Mapping[str, Any]:
    """PyTorch's facts about the processor: instruction sets, cores, its name; empty in older releases."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def computes_in_bf16(device: torch.device) -> bool:
    """True if the processor has instructions for bf16, so that it computes faster in it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # In turn: x86 vectors, x86 tiles, ARM.
    return any(cpu_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def sums_int8_exactly() -> bool:
    """True if the processor sums products of int8 without overflow.

    On x86 without such instructions (VNNI) two products are first added in 16 bits, which saturates.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return True
    return any(cpu_capabilities().get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


# A gap between two readings of the clock that is longer than a system call or an interrupt takes.
GAP_SECONDS = 1e-3
# Share of the time below which the core of a busy loop counts as shared with other programs.
QUIET = 0.95


def core_share(seconds: float = 0.3) -> float:
    """Share of the time for which a loop that only reads the clock keeps its core, 0..1.

    The rest went to other processes or, unseen by the operating system, to other virtual machines; times
    measured meanwhile are too long by that much, at random.

    Args:
        seconds: Duration of the loop.
    """
    start = last = time.perf_counter()
    lost = 0.0
    while last - start < seconds:
        now = time.perf_counter()
        if now - last > GAP_SECONDS:
            lost += now - last
        last = now
    return 1 - lost / (last - start)


def disturbance(environment: Mapping[str, Any]) -> str:
    """A warning if the machine was not quiet, else ""."""
    if environment["core_share"] >= QUIET:
        return ""
    return (
        f"This machine was not quiet: a busy loop kept its core for {environment['core_share']:.0%} of the time. "
        "Repeat the measurement on a quiet one before you rely on its speeds."
    )


def describe_environment(device: str = "cpu") -> dict[str, str | int | float]:
    """Processor, the share of it that was free, threads and versions, for the record beside every figure.

    Example:
        >>> sorted(describe_environment())
        ['core_share', 'cores', 'device', 'ghostify', 'os', 'processor', 'python', 'threads', 'torch', 'torchvision']
    """
    capabilities = cpu_capabilities()
    processor = torch.cuda.get_device_name() if device.startswith("cuda") else capabilities.get("cpu_name", "")
    return {
        "device": device,
        "processor": str(processor or platform.processor() or platform.machine()),
        "cores": int(capabilities.get("num_physical_cores", 0)) or torch.get_num_threads(),
        "core_share": round(core_share(), 3),
        "threads": torch.get_num_threads(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "ghostify": version("ghostify"),
    }
