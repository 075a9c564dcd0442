"""A classification network's weights for the backbone of a detector."""

import os

from torch import nn

from ghostify.errors import InputError
from ghostify.models.detectors import BACKBONES, DETECTORS, backbone_name
from ghostify.models.registry import create_model, known_origin
from ghostify.models.weights import load_weights_

OPTIONS = ("ratio", "cheap_kernel_size")


def load_backbone_weights_(detector: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load a classification network's weights, of any number of classes, into the backbone of a detector, strictly.

    Args:
        detector: A detector that ``create_model`` built.
        path: A file that ``load_weights_`` can read, such as ``ghostify train`` writes.
    Raises:
        InputError: If the file cannot be read or is of another network.
    """
    origin = known_origin(detector)
    if origin is None or origin.name not in DETECTORS:
        raise InputError("backbone weights are for a detector by name: expected one of `ghostify models`")
    _, backbone = DETECTORS[origin.name]
    options = {name: value for name, value in origin.options.items() if name in OPTIONS}
    network = load_weights_(create_model(backbone_name(backbone), **options), path, new_head=True)
    learned = BACKBONES[backbone](network)[0].state_dict()
    body = detector.get_submodule("backbone.body")
    body.load_state_dict({name: learned[name] for name in body.state_dict()})
    return detector
