"""A detector whose plain part is an exported file."""

import copy
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ghostify.errors import InputError
from ghostify.inference.file_network import FileNetwork
from ghostify.plain_part import Detections, Detector, finish


def detector_by_file(detector: Detector, file: FileNetwork) -> Detector:
    """The same detector, with the outputs of its plain part from a file that it was exported to.

    Images are prepared, and boxes chosen, by the detector in PyTorch, which shares all its parts with the one given.

    Args:
        detector: In eval mode.
        file: Takes inputs of one size, to which smaller ones are padded.
    Raises:
        InputError: When it is called, if an image is larger than the file's inputs, or the outputs are not the
            detector's.
    """
    by_file = copy.copy(detector)

    def forward(images: list[Tensor], targets: Any = None) -> Detections:
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        prepared, _ = detector.transform(list(images))
        x = padded(prepared.tensors, file)
        outputs = file(x)
        found = finish(detector, outputs if isinstance(outputs, tuple) else (outputs,), prepared.image_sizes, x)
        boxes: Detections = detector.transform.postprocess(found, prepared.image_sizes, sizes)
        return boxes

    by_file.forward = forward
    return by_file


def padded(x: Tensor, file: FileNetwork) -> Tensor:
    """Inputs at the size of the file's."""
    _, height, width = file.input_shape or x.shape[1:]
    down, right = height - x.shape[2], width - x.shape[3]
    if min(down, right) < 0:
        raise InputError(
            f"{file.path.name} takes {width}×{height} pixels, and an image becomes {x.shape[3]}×{x.shape[2]}: "
            "expected a file that was exported with the largest images"
        )
    return F.pad(x, (0, right, 0, down))
