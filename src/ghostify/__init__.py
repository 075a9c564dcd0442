"""Faster convolutional networks by ghost maps, measured.

The front door: everything here is public; the rooms behind it may move.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ghostify.errors import InputError
from ghostify.model_names import list_detectors, list_models

if TYPE_CHECKING:
    from ghostify import detect, segment
    from ghostify.changes import LayerPlan
    from ghostify.data.images import ImageData
    from ghostify.data.sources import load_data
    from ghostify.inference import FileNetwork, Int8, choose_forms, compare, deploy, explain, export
    from ghostify.jobs.hints import hints
    from ghostify.jobs.recipe import Recipe
    from ghostify.jobs.train import Teacher
    from ghostify.layers import GhostConv2d, GhostModule
    from ghostify.measure import count
    from ghostify.models import create_model
    from ghostify.network_file import load, save
    from ghostify.planning import convert, plan
    from ghostify.verbs.evaluate import evaluate
    from ghostify.verbs.look import look
    from ghostify.verbs.run import run
    from ghostify.verbs.train import train

try:
    __version__ = version("ghostify")
except PackageNotFoundError:  # its sources alone, not installed
    __version__ = "0+unknown"

__all__ = [
    "FileNetwork",
    "GhostConv2d",
    "GhostModule",
    "ImageData",
    "InputError",
    "Int8",
    "LayerPlan",
    "Recipe",
    "Teacher",
    "choose_forms",
    "compare",
    "convert",
    "count",
    "create_model",
    "deploy",
    "detect",
    "evaluate",
    "explain",
    "export",
    "hints",
    "list_detectors",
    "list_models",
    "load",
    "load_data",
    "look",
    "plan",
    "run",
    "save",
    "segment",
    "train",
]

# What is imported when it is first asked for, and from where: the command line's help needs no PyTorch, and whoever
# changes or times networks no trainer.
_LATER = {
    "FileNetwork": "ghostify.inference",
    "GhostConv2d": "ghostify.layers",
    "GhostModule": "ghostify.layers",
    "ImageData": "ghostify.data.images",
    "Int8": "ghostify.inference",
    "LayerPlan": "ghostify.changes",
    "Recipe": "ghostify.jobs.recipe",
    "Teacher": "ghostify.jobs.train",
    "choose_forms": "ghostify.inference",
    "compare": "ghostify.inference",
    "convert": "ghostify.planning",
    "count": "ghostify.measure",
    "create_model": "ghostify.models",
    "deploy": "ghostify.inference",
    "detect": "ghostify.detect",
    "evaluate": "ghostify.verbs.evaluate",
    "explain": "ghostify.inference",
    "export": "ghostify.inference",
    "hints": "ghostify.jobs.hints",
    "load": "ghostify.network_file",
    "load_data": "ghostify.data.sources",
    "look": "ghostify.verbs.look",
    "plan": "ghostify.planning",
    "run": "ghostify.verbs.run",
    "save": "ghostify.network_file",
    "segment": "ghostify.segment",
    "train": "ghostify.verbs.train",
}

if not TYPE_CHECKING:  # where it would stand for any name

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(_LATER[name])
        globals()[name] = found = module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
