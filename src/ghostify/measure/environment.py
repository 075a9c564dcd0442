"""What a figure was measured on."""

import platform
from importlib.metadata import version

import torch


def describe_environment(device: str = "cpu") -> dict[str, str | int]:
    """Processor, threads and versions, for the record beside every figure.

    Example:
        >>> sorted(describe_environment())
        ['cores', 'device', 'ghostify', 'os', 'processor', 'python', 'threads', 'torch', 'torchvision']
    """
    capabilities = torch.cpu.get_capabilities()
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
