"""Networks that name the class of each pixel learn and are scored: ``ghostify segment`` as functions."""

import os
from dataclasses import asdict

from torch import nn

from ghostify.data.masks import MaskData, load_masks
from ghostify.jobs.accelerator import chosen_device
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.segment import MaskScore, check_maps, evaluate_segmenter, train_and_score_segmenter
from ghostify.jobs.train import Teacher
from ghostify.jobs.training import Training
from ghostify.jobs.training_folder import TrainingFolder
from ghostify.modes import evaluating, on_device
from ghostify.network_file import remember_extra
from ghostify.progress import Progress
from ghostify.transform.blueprint import blueprint_of
from ghostify.verbs.folder import path_of
from ghostify.verbs.prepared import Channels, masks_for, name_of, refuse_unknown_classes
from ghostify.verbs.train import told

__all__ = ["MaskData", "MaskScore", "Training", "evaluate", "load_masks", "train"]

USUAL = Recipe(epochs=60, batch_size=16, optimizer="adamw", lr=1e-3, weight_decay=0.01)


def train(  # noqa: PLR0913  # the front door: the verb's options, each a setting of the user's
    model: nn.Module,
    data: str | MaskData,
    recipe: Recipe = USUAL,
    *,
    teacher: Teacher | None = None,
    image_size: int | None = None,
    mean: Channels = None,
    std: Channels = None,
    hold_out: float = 0.0,
    device: str = "auto",
    workers: int = 2,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    progress: Progress | None = None,
) -> Training[MaskScore]:
    """Train a network on images with masks, in place, and score it on val, as ``ghostify segment train`` does.

    Several processes may be started by torchrun.

    Args:
        model: Returns logits ``[batch, classes, height, width]``, or a mapping or tuple that begins with them, as
            torchvision's do; it is put on the device.
        data: A reference such as ``"voc:DIR"`` or ``"coco:DIR?classes=person"``, see ``load_masks``, or what that gave.
        recipe: Epochs, batch size, optimizer and all else that is learnt by.
        teacher: Network to learn from beside the masks, such as the original of a planned one:
            ``Teacher(original, weight=1, hints=True)`` learns no masks.
        image_size: Side of the squares that images become, pixels; None: as the network's file says.
        mean, std: Those of each channel, in 0..1; None: as the network's file says, else ImageNet's.
        hold_out: Share of the training images held out to validate each epoch, where the data is given by reference.
        device: "cpu", "cuda", or "auto" for the GPU where there is one.
        workers: Processes that decode images.
        out: Folder for settings, log, checkpoint and networks; None: nothing is written.
        resume: Go on with the training that began in ``out``.
        tensorboard: Log to ``out`` for TensorBoard, too.
        progress: Called at each step.
    Returns:
        The history by epochs, and the mean intersection over union on the val images.
    Raises:
        InputError: If network, data, teacher, recipe, device and folder do not go together, or the loss is no longer
            finite.
    """
    path = path_of(out, resume=resume, tensorboard=tensorboard)
    device = chosen_device(device)
    images = masks_for(model, data, image_size=image_size, mean=mean, std=std, hold_out=hold_out)
    check_maps(model, images)
    folder = None
    if path is not None:
        blueprint_of(model)  # refused where it could not be written
        folder = TrainingFolder(path, images.preprocessing, tensorboard)
    training = train_and_score_segmenter(
        model,
        images,
        recipe,
        teacher=teacher,
        options=RunOptions(device, workers, None if folder is None else folder.checkpoint, resume),
        folder=folder,
        settings={
            "model": name_of(model),
            "data": images.name,
            "teacher": None if teacher is None else told(teacher),
            "recipe": asdict(recipe),
        },
        progress=progress,
    )
    remember_extra(model, images.preprocessing)
    return training


def evaluate(
    model: nn.Module,
    data: str | MaskData,
    *,
    image_size: int | None = None,
    mean: Channels = None,
    std: Channels = None,
    device: str = "auto",
    workers: int = 2,
    progress: Progress | None = None,
) -> MaskScore:
    """Score a network, or an exported file, on val, as ``ghostify segment evaluate`` does.

    Args:
        model: A network, left on its device and in its mode, or a ``FileNetwork``.
        data: A reference such as ``"voc:DIR"`` or ``"coco:DIR?classes=person"``, see ``load_masks``, or what that gave.
        image_size: Side of the squares that images become, pixels; None: as the network's file says.
        mean, std: Those of each channel, in 0..1; None: as the network's file says, else ImageNet's.
        device: "cpu", "cuda", or "auto" for the GPU where there is one.
        workers: Processes that decode images.
        progress: Called for each batch.
    Raises:
        InputError: If network, data and device do not go together.
    """
    device = chosen_device(device)
    images = masks_for(model, data, image_size=image_size, mean=mean, std=std)
    refuse_unknown_classes(model, images)
    with on_device(model, device), evaluating(model):
        return evaluate_segmenter(model, images.test, images, device=device, workers=workers, progress=progress)
