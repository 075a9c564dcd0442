"""A network as the file that an engine runs in a precision."""

from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from ghostify.inference.deploy import copied
from ghostify.inference.engines import Precision
from ghostify.inference.export import write_onnx
from ghostify.inference.file_network import FileNetwork
from ghostify.inference.quantize import AlreadyQuantisedError, images_for_ranges, quantise_file

WRITTEN = "network.onnx"
QUANTISED = {"onnxruntime": "network.int8.onnx", "openvino": "network.int8.xml"}


def engine_file(network: nn.Module, folder: Path, example: Tensor, *, engine: str, precision: Precision) -> Path:
    """Write a network as it is for an engine, to be timed; a file is taken as it is, also one that is in int8.

    Quantised, the ranges of its maps are the example's: they hardly change its time, but make answers of no use.

    Args:
        folder: Where what must be written is, as ``network.onnx`` and for int8 beside it.
        example: One batch ``[batch, channels, height, width]``, in float32 where the engine computes in bf16.
    """
    if isinstance(network, FileNetwork):
        file = network.path
    else:
        file = folder / WRITTEN
        own = network if dtype_of(network) in (example.dtype, None) else copied(network).to(example.dtype)
        with torch.inference_mode(False):  # whose tensors cannot be exported
            write_onnx(own, file, example, engine=engine)
    if precision == "int8":
        quantised = folder / QUANTISED[engine]
        with suppress(AlreadyQuantisedError):
            quantise_file(file, quantised, engine=engine, images=images_for_ranges([example], example))
            file = quantised
    return file


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """The data type of a network's weights; None without weights."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
