"""Faster convolutional networks by ghost maps, measured.

The front door: everything here is public; the rooms behind it may move.
"""

from ghostify.changes import LayerPlan
from ghostify.errors import InputError
from ghostify.inference import FileNetwork, Int8, choose_forms, compare, deploy, explain, export
from ghostify.layers import GhostConv2d, GhostModule
from ghostify.measure import count
from ghostify.models import create_model, list_detectors, list_models
from ghostify.network_file import load, save
from ghostify.planning import convert, plan

__version__ = "0.1.0"

__all__ = [
    "FileNetwork",
    "GhostConv2d",
    "GhostModule",
    "InputError",
    "Int8",
    "LayerPlan",
    "choose_forms",
    "compare",
    "convert",
    "count",
    "create_model",
    "deploy",
    "explain",
    "export",
    "list_detectors",
    "list_models",
    "load",
    "plan",
    "save",
]
