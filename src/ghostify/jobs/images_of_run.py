"""The images of a run, whatever the caller has: a reference, a data set, or batches with labels or without."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ghostify.data import ImageData, load_data
from ghostify.data.images import count_images
from ghostify.data.own import data_from_batches
from ghostify.errors import InputError, spelled
from ghostify.fitting.calibration import FEWEST_IMAGES
from ghostify.jobs.evaluate import check_fit
from ghostify.jobs.run_settings import RunSettings


@dataclass(frozen=True)
class Data:
    """The images of a run.

    Args:
        images: The data set.
        labelled: Right is what labels say; else what the original answers.
        preprocessing: How images become inputs, as far as that is known.
    """

    images: ImageData
    labelled: bool = True
    preprocessing: dict[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        return "top-1" if self.labelled else "of the original's answers"


def opened_data(model: nn.Module, data: Any, settings: RunSettings) -> Data:
    """The images, checked against the network."""
    if isinstance(data, Data):
        found = data
    elif isinstance(data, str):
        images = load_data(data, hold_out=0.1)
        found = Data(images, preprocessing=images.preprocessing)
    elif isinstance(data, ImageData):
        found = Data(data, preprocessing=data.preprocessing)
    else:
        if not isinstance(data, Iterable):
            raise InputError(
                f"{spelled('data')} is a {type(data).__name__}: expected batches, or a reference such as "
                "imagefolder:DIR"
            )
        batches = list(data)
        labelled = any(isinstance(batch, tuple | list) and len(batch) > 1 for batch in batches)
        found = Data(data_from_batches(batches, model), labelled)
    if found.images.val is None:
        raise InputError(f"{spelled('data')}: rates are chosen by images held out of train: expected some")
    if (settings.labels or settings.recipe) and not found.labelled:
        raise InputError(f"{spelled('data')} has no labels to learn from: leave {spelled('labels')} out")
    enough = min(settings.images, count_images(found.images.train))
    if enough < FEWEST_IMAGES:
        raise InputError(f"{enough} training images: expected at least {FEWEST_IMAGES}, better some hundreds")
    check_fit(model, found.images)
    return found
