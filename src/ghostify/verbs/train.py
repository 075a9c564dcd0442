"""Weights fitted to labelled images, in one call."""

import os
from dataclasses import asdict
from typing import Any

from torch import nn

from ghostify.data.images import ImageData
from ghostify.data.sources import augmented
from ghostify.errors import InputError
from ghostify.jobs.accelerator import chosen_device
from ghostify.jobs.evaluate import Score, check_fit
from ghostify.jobs.learn import RunOptions, refuse_recording
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.recipes import ROWS
from ghostify.jobs.train import Teacher, train_and_score
from ghostify.jobs.training import Training
from ghostify.jobs.training_folder import TrainingFolder
from ghostify.network_file import remember_extra
from ghostify.plain_part import is_detector
from ghostify.progress import Progress
from ghostify.transform.blueprint import blueprint_of
from ghostify.verbs.folder import path_of
from ghostify.verbs.prepared import Channels, images_for, name_of

USUAL = Recipe()


def train(  # noqa: PLR0913  # the front door: the verb's options, each a setting of the user's
    model: nn.Module,
    data: str | ImageData,
    recipe: Recipe | str = USUAL,
    *,
    teacher: Teacher | None = None,
    image_size: int | None = None,
    mean: Channels = None,
    std: Channels = None,
    hold_out: float = 0.1,
    device: str = "auto",
    workers: int = 2,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    progress: Progress | None = None,
) -> Training[Score]:
    """Train a network on labelled images, in place, and score it on the test images, as ``ghostify train`` does.

    Several processes may be started by torchrun.

    Args:
        model: The network, which is put on the device.
        data: A reference such as ``"npz:cifar10.npz"`` or ``"imagefolder:DIR"``, see ``load_data``, or what that gave.
        recipe: Epochs, batch size, optimizer and all else that is learnt by; or the name of a published row of
            ``ghostify recipes`` whose settings these are.
        teacher: Network to learn from beside the labels, such as the original of a ghost.
        image_size: Side to which images of a folder are brought, pixels; None: the network's own.
        mean, std: Those of each channel, in 0..1, by which images are normalised; None: as the file says that the
            network was loaded from, else as is usual for the data.
        hold_out: Share of the training images held out to validate each epoch, where the data is given by reference.
        device: "cpu", "cuda", or "auto" for the GPU where there is one.
        workers: Processes that decode images of a folder.
        out: Folder for settings, log, checkpoint, best and last network; None: nothing is written.
        resume: Go on with the training that began in ``out``.
        tensorboard: Log to ``out`` for TensorBoard, too.
        progress: Called at each step.
    Returns:
        The history by epochs, and the score on the test images.
    Raises:
        InputError: If network, data, teacher, recipe, device and folder do not go together, or the loss is no longer
            finite.
    Example:
        >>> from ghostify import Recipe, create_model, train
        >>> recipe = Recipe(epochs=1, batch_size=256, precision="fp32")
        >>> training = train(create_model("ghost_resnet20"), "digits", recipe, device="cpu")
        >>> [epoch.images for epoch in training.history], training.score.images
        ([1024], 600)
    """
    if is_detector(model):
        raise InputError(f"{type(model).__name__} finds objects: use ghostify.detect, with images that have boxes")
    recipe = recipe_of(recipe)
    path = path_of(out, resume=resume, tensorboard=tensorboard)
    device = chosen_device(device)
    if recipe.cuda_graph:
        refuse_recording(device)
    images = images_for(model, data, image_size=image_size, mean=mean, std=std, hold_out=hold_out)
    check_fit(model, images)
    augmented(images, recipe.color_jitter, recipe.rand_augment)  # refused where it cannot be
    folder = None
    if path is not None:
        blueprint_of(model)  # refused where it could not be written
        folder = TrainingFolder(path, images.preprocessing, tensorboard)
    checkpoint = None if folder is None else folder.checkpoint
    training = train_and_score(
        model,
        images,
        recipe,
        teacher=teacher,
        options=RunOptions(device, workers, checkpoint, resume),
        folder=folder,
        settings={
            "model": name_of(model),
            "data": images.name,
            "recipe": asdict(recipe),
            "teacher": None if teacher is None else told(teacher),
        },
        progress=progress,
    )
    remember_extra(model, images.preprocessing)
    return training


def recipe_of(recipe: Recipe | str) -> Recipe:
    """The recipe itself, or a published row's by its name."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in ROWS:
        raise InputError(f"there is no recipe {recipe!r}: expected a Recipe, or one of {', '.join(ROWS)}")
    return ROWS[recipe].recipe


def told(teacher: Teacher) -> dict[str, Any]:
    """A teacher as JSON values."""
    weight, temperature = teacher.weight, teacher.temperature
    return {"network": name_of(teacher.network), "weight": weight, "temperature": temperature, "hints": teacher.hints}
