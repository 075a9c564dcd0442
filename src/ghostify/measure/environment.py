"""What a figure was measured on."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch


def cpu_capabilities() -> Mapping[str, Any]:
    """What PyTorch knows of the processor: instruction sets, cores, its name; empty in older releases."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def describe_environment(device: str = "cpu") -> dict[str, str | int]:
    """Processor, threads and versions, for the record beside every figure.

    Example:
        >>> sorted(describe_environment())
        ['cores', 'device', 'ghostify', 'os', 'processor', 'python', 'threads', 'torch', 'torchvision']
    """
    capabilities = cpu_capabilities()
    processor = torch.cuda.get_device_name() if device.startswith("cuda") else capabilities.get("cpu_name", "")
    return {
        "device": device,
        "processor": str(processor or platform.processor() or platform.machine()),
        "cores": int(capabilities.get("num_physical_cores", 0)) or torch.get_num_threads(),
        "threads": torch.get_num_threads(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "ghostify": version("ghostify"),
    }
