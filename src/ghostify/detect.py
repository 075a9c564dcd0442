"""Detectors learn, are scored, and show what they find: ``ghostify detect`` as functions."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch import nn

from ghostify.atomic import check_writable
from ghostify.data.coco import DetectionData, load_coco
from ghostify.errors import InputError, spelled
from ghostify.inference.file_detector import detector_by_file
from ghostify.inference.file_network import FileNetwork
from ghostify.jobs.accelerator import chosen_device
from ghostify.jobs.boxes import DETECTIONS, Picture, find_in_files, write_drawings, write_found
from ghostify.jobs.coco_score import CocoScore
from ghostify.jobs.detect import check_detector, evaluate_detector, train_and_score_detector
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import Teacher
from ghostify.jobs.training import Training
from ghostify.jobs.training_folder import TrainingFolder
from ghostify.models.backbone_weights import load_backbone_weights_
from ghostify.modes import evaluating, on_device
from ghostify.needed import refuse_missing
from ghostify.network_file import known_extra, remember_extra
from ghostify.progress import Progress
from ghostify.transform.blueprint import blueprint_of
from ghostify.verbs.folder import path_of
from ghostify.verbs.prepared import name_of, refuse_unknown_classes
from ghostify.verbs.train import told

__all__ = ["CocoScore", "DetectionData", "Picture", "Training", "evaluate", "load_coco", "predict", "train"]

USUAL = Recipe(epochs=12, batch_size=8, optimizer="adamw", lr=1e-3, weight_decay=0.01)


def train(  # noqa: PLR0913  # the front door: the verb's options, each a setting of the user's
    model: nn.Module,
    data: str | DetectionData,
    recipe: Recipe = USUAL,
    *,
    teacher: Teacher | None = None,
    backbone_weights: str | os.PathLike[str] | None = None,
    hold_out: float = 0.0,
    device: str = "auto",
    workers: int = 2,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    progress: Progress | None = None,
) -> Training[CocoScore]:
    """Train a detector on images with boxes, in place, and score it on val, as ``ghostify detect train`` does.

    It needs pycocotools. Several processes may be started by torchrun.

    Args:
        model: A detector of ``create_model``, or torchvision's, for the data's categories; it is put on the device.
        data: A reference ``"coco:DIR"`` or ``"coco:DIR?train=NAME&val=NAME"``, see ``load_coco``, or what that gave.
        recipe: Epochs, batch size, optimizer and all else that is learnt by.
        teacher: Detector to learn from by hints beside the boxes, such as the original of a planned one:
            ``Teacher(original, weight=1, hints=True)`` learns no boxes.
        backbone_weights: State dict of the backbone's classification network, whatever its classes, to start from.
        hold_out: Share of the training images held out to validate each epoch, where the data is given by reference.
        device: "cpu", "cuda", or "auto" for the GPU where there is one.
        workers: Processes that decode images.
        out: Folder for settings, log, checkpoint and networks; None: nothing is written.
        resume: Go on with the training that began in ``out``.
        tensorboard: Log to ``out`` for TensorBoard, too.
        progress: Called at each step.
    Returns:
        The history by epochs, and COCO's twelve numbers on the val images.
    Raises:
        InputError: If detector, data, recipe, device and folder do not go together, the loss is no longer finite, or
            pycocotools is not installed.
    """
    refuse_missing("pycocotools")
    path = path_of(out, resume=resume, tensorboard=tensorboard)
    device = chosen_device(device)
    images = load_coco(data, hold_out=hold_out) if isinstance(data, str) else data
    check_detector(model, images)
    folder = None
    if path is not None:
        blueprint_of(model)  # refused where it could not be written
        folder = TrainingFolder(path, images.preprocessing, tensorboard)
    if backbone_weights is not None:
        load_backbone_weights_(model, Path(backbone_weights))
    training = train_and_score_detector(
        model,
        images,
        recipe,
        teacher=teacher,
        options=RunOptions(device, workers, None if folder is None else folder.checkpoint, resume),
        folder=folder,
        settings={
            "model": name_of(model),
            "data": images.name,
            "backbone_weights": None if backbone_weights is None else str(backbone_weights),
            "teacher": None if teacher is None else told(teacher),
            "recipe": asdict(recipe),
        },
        progress=progress,
    )
    remember_extra(model, images.preprocessing)
    return training


def evaluate(
    model: nn.Module,
    data: str | DetectionData,
    *,
    file: str | os.PathLike[str] | None = None,
    device: str = "auto",
    workers: int = 2,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> CocoScore:
    """Score a detector on val, as ``ghostify detect evaluate`` does: COCO's twelve numbers.

    It needs pycocotools.

    Args:
        model: A detector, left on its device and in its mode.
        data: A reference ``"coco:DIR"`` or ``"coco:DIR?train=NAME&val=NAME"``, see ``load_coco``, or what that gave.
        file: Exported file from which the outputs of the detector's plain part are taken; None: PyTorch computes them.
        device: "cpu", "cuda", or "auto" for the GPU where there is one.
        workers: Processes that decode images.
        out: Folder for ``detections.json``, COCO's result rows; None: nothing is written.
        progress: Called for each image.
    Raises:
        InputError: If detector, data, file and device do not go together, or pycocotools is not installed.
    """
    refuse_missing("pycocotools")
    if out is not None:
        check_writable(out, DETECTIONS)
    device = chosen_device(device)
    images = load_coco(data) if isinstance(data, str) else data
    check_detector(model, images)
    refuse_unknown_classes(model, images)
    with on_device(model, device), evaluating(model):
        asked = model if file is None else detector_by_file(model, FileNetwork(file))
        score, found = evaluate_detector(asked, images.test, images, device=device, workers=workers, progress=progress)
    if out is not None:
        write_found(Path(out), found)
    return score


def predict(
    model: nn.Module,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    least_score: float = 0.5,
    classes: Sequence[str] | None = None,
    device: str = "auto",
    out: str | os.PathLike[str] | None = None,
) -> list[Picture]:
    """Find the objects in image files, and draw them where there is a folder for that, as ``ghostify detect predict``.

    Args:
        model: A detector, left on its device and in its mode.
        images: Files, or folders of them.
        least_score: Least score of an object that is reported, 0 to 1.
        classes: Names of the categories; None: those in the file that the detector was loaded from, else numbers.
        device: "cpu", "cuda", or "auto" for the GPU where there is one.
        out: Folder for the images with boxes, and ``detections.json``; None: nothing is written.
    Returns:
        For each image its objects: label, name, score and box.
    Raises:
        InputError: If the network is no detector, a path leads to no image, or a drawing would take an image's place.
    """
    if not 0 <= least_score <= 1:
        raise InputError(f"{spelled('least_score')} is {least_score:g}: expected 0 to 1")
    if out is not None:
        check_writable(out, DETECTIONS)
    device = chosen_device(device)
    paths = [Path(path) for path in ([images] if isinstance(images, str | os.PathLike) else images)]
    known = known_extra(model).get("classes") if classes is None else classes
    folder = None if out is None else Path(out)
    with on_device(model, device):
        found = find_in_files(model, paths, known, folder, least_score=least_score, device=device)
    if folder is not None:
        write_drawings(folder, found)
    return found
