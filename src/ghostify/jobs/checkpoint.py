"""Trainings on disk: what happened so far, and all that is needed to go on."""

import pickle
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from ghostify.atomic import replacing
from ghostify.errors import DAMAGED_ARCHIVE, InputError

CHECKPOINT_FORMAT = "ghostify training 5"
PARTS = {
    **{"format": str, "settings": dict, "history": list},
    **{"model": dict, "average": dict, "optimizer": dict, "scheduler": dict},
}


@dataclass(frozen=True)
class Epoch:
    """The figures of one pass over the training images.

    Args:
        epoch: Counted from 1.
        train_loss: Mean over the pass.
        images: Training images that were seen, in all processes.
        train_top1: Share right on the augmented images, while learning, 0..1; None for other tasks.
        lr: Learning rate of the last step.
        seconds: Length of the pass, without evaluation.
        data_share: Part of them spent waiting for and augmenting images, 0..1.
        val_top1: Share right on the held-out images after the pass; None where nothing is held out.
        val_ap: COCO's average precision of a detector there, 0..1.
        val_ap50: The same at the overlap 0.50.
        val_miou: Mean intersection over union of masks there, 0..1.
    """

    epoch: int
    images: int
    train_loss: float
    train_top1: float | None
    lr: float
    seconds: float
    data_share: float
    val_top1: float | None = None
    val_ap: float | None = None
    val_ap50: float | None = None
    val_miou: float | None = None

    @property
    def score(self) -> float | None:
        """By which epochs are compared; None where nothing is held out."""
        scores = (self.val_top1, self.val_ap, self.val_miou)
        return next((score for score in scores if score is not None), None)

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


@dataclass(frozen=True)
class Learner:
    """Everything in a training that changes with its steps.

    Args:
        model: The network.
        average: Moving average of its weights, or None.
        optimizer: With its momenta.
        scheduler: Scheduler of the learning rate.
    """

    model: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR


def save_checkpoint(path: Path, learner: Learner, settings: dict[str, Any], history: list[Epoch]) -> None:
    """Put the state into a file, whole or not at all."""
    state = {
        "format": CHECKPOINT_FORMAT,
        "settings": settings,
        "history": [asdict(epoch) for epoch in history],
        "model": learner.model.state_dict(),
        "average": learner.average.state_dict() if learner.average is not None else {},
        "optimizer": learner.optimizer.state_dict(),
        "scheduler": {"last_epoch": learner.scheduler.last_epoch},
    }
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # a full disk, for example
            raise OSError(f"{path} cannot be written: {error}") from error


def load_checkpoint(path: Path, learner: Learner, settings: dict[str, Any]) -> list[Epoch]:
    """Put a saved state back; the epochs that it has behind it."""
    state = read_state(path)
    before = state["settings"]
    changed = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
    if changed:
        was = ", ".join(f"{key} was {before.get(key)}" for key in changed)
        raise InputError(f"{path} was begun otherwise: {was}; resume with the same settings")
    try:
        learner.model.load_state_dict(state["model"])
        if learner.average is not None:
            learner.average.load_state_dict(state["average"])
        learner.optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} is of another network than {type(learner.model).__name__} as given here") from error
    learner.scheduler.last_epoch = state["scheduler"]["last_epoch"]
    return [Epoch(**epoch) for epoch in state["history"]]


def read_state(path: Path) -> dict[str, Any]:
    """The state that ``save_checkpoint`` put into a file.

    Raises:
        InputError: If it is another file, or not as it was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None  # by the sums in it: PyTorch takes what it can make something of
        state: Any = torch.load(path, map_location="cpu", weights_only=True) if whole else None
    except (*DAMAGED_ARCHIVE, pickle.UnpicklingError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} is no training checkpoint, or is cut short: start anew in another place") from error
    if not whole:
        raise InputError(f"{path} is damaged: start anew in another place")
    complete = isinstance(state, dict) and all(isinstance(state.get(name), kind) for name, kind in PARTS.items())
    if not complete or state["format"] != CHECKPOINT_FORMAT:
        raise InputError(f"{path} is no training checkpoint of this version: expected {CHECKPOINT_FORMAT!r}")
    return state
