"""`ghostify detect`: detectors learn, are scored, and show what they find."""

import dataclasses
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import nn

from ghostify.cli.beforehand import open_before, refuse_other_kind, refuse_unsavable
from ghostify.cli.opening import Channels, NamedNetwork
from ghostify.cli.options import (
    PIXELS,
    SHARE,
    ExistingFile,
    TrainingOutput,
    builder_options,
    bundle,
    classes_option,
    device_option,
    hold_out_option,
    machine_options,
    mean_and_std_options,
    out_option,
    recipe_options,
    source_options,
    threads_option,
    together,
    training_output,
)
from ghostify.cli.output import json_option, kept, percent, print_history, print_table, progress_bars, say, show
from ghostify.cli.teacher import NamedTeacher, teacher_options
from ghostify.data.coco import DetectionData, load_coco
from ghostify.inference.file_detector import detector_by_file
from ghostify.inference.file_network import FileNetwork
from ghostify.jobs.boxes import DETECTIONS, find_in_files, image_files, write_drawings, write_found
from ghostify.jobs.coco_score import NUMBERS, CocoScore
from ghostify.jobs.detect import check_detector, check_teacher, evaluate_detector, train_and_score_detector
from ghostify.jobs.learn import RunOptions, refuse_to_overwrite
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.training_folder import CHECKPOINT, TrainingFolder
from ghostify.measure.environment import describe_environment
from ghostify.models.backbone_weights import load_backbone_weights_
from ghostify.needed import refuse_engine, refuse_missing


@dataclass(frozen=True)
class NamedDetector(NamedNetwork):
    """A detector as the user names it, with the options of its builder."""

    fpn_channels: int | None = None
    min_size: int | None = None
    max_size: int | None = None
    smallest_anchor: int | None = None
    norm: bool | None = None
    image_mean: Channels = None
    image_std: Channels = None

    def open_with(self, images: "BoxImages", seed: int = 0) -> tuple[nn.Module, DetectionData]:
        """The detector and images with boxes.

        It is for as many categories as these have where that is left open; a file must have the same.
        """
        torch.manual_seed(seed)
        network = open_before(self, detector=True)
        data = images.open()
        self.refuse_other_classes(data.name, data.classes)
        torch.manual_seed(seed)
        network = network or self.with_classes(len(data.classes)).open()
        check_detector(network, data)
        return network, data


@dataclass(frozen=True)
class BoxImages:
    """Images with boxes as the user names them, the device that computes them and the processes that decode them."""

    data_name: str
    device: str
    workers: int
    hold_out: float = 0.0

    def open(self) -> DetectionData:
        return load_coco(self.data_name, hold_out=self.hold_out)


coco_option = click.option(
    "--data",
    "data_name",
    required=True,
    help="DATA in COCO's layout, coco:DIR or coco:DIR?train=NAME&val=NAME for other names of its parts.",
)
# All of a recipe but what only a classification can have.
LEARNING = [
    field.name
    for field in dataclasses.fields(Recipe)
    if field.name not in ("label_smoothing", "color_jitter", "rand_augment", "cuda_graph")
]
detector_options = together(
    click.option(
        "--fpn-channels",
        type=click.IntRange(8),
        show_default="256",
        help="Channels at each level of the feature pyramid.",
    ),
    click.option(
        "--min-size",
        type=PIXELS,
        show_default="800",
        help="Length to which an image's shorter side is brought, pixels.",
    ),
    click.option(
        "--max-size",
        type=PIXELS,
        show_default="1333",
        help="Most that the longer side may have then, pixels.",
    ),
    click.option(
        "--smallest-anchor",
        type=PIXELS,
        show_default="32",
        help="Side of the smallest anchor boxes, pixels.",
    ),
    click.option(
        "--norm/--no-norm",
        default=None,
        show_default="no-norm",
        help="Normalise pyramid and head, to train without ImageNet weights.",
    ),
    mean_and_std_options("ImageNet's", "image_mean", "image_std"),
    builder_options,
    source_options,
)


@click.group()
def detect() -> None:
    """Find objects: train, score and show detectors on images with boxes, COCO's layout.

    MODEL is a detector of `ghostify models`, or a file that ghostify wrote.
    """


@detect.command()
@bundle("named", NamedDetector, click.argument("model"), detector_options)
@bundle("images", BoxImages, coco_option, machine_options, hold_out_option(0.0))
@click.option(
    "--backbone-weights",
    type=ExistingFile(),
    help="State dict of the backbone's classification network, whatever its classes, to start from.",
)
@bundle(
    "recipe",
    Recipe,
    recipe_options(*LEARNING, epochs=12, batch_size=8, optimizer="adamw", lr=1e-3, weight_decay=0.01),
)
@bundle("named_teacher", NamedTeacher, teacher_options("boxes"))
@training_output("settings, log, checkpoint and network")
@json_option
def train(
    named: NamedDetector,
    images: BoxImages,
    backbone_weights: Path | None,
    recipe: Recipe,
    named_teacher: NamedTeacher,
    output: TrainingOutput,
    as_json: bool,
) -> None:
    """Train MODEL on images with boxes and score it on val. torchrun may start several processes."""
    refuse_missing("pycocotools")
    refuse_to_overwrite(output.out / CHECKPOINT, output.resume)
    teacher = named_teacher.open(named_teacher.named(named.factory), detector=True)
    network, data = named.open_with(images, recipe.seed)
    refuse_unsavable(network)
    if teacher is not None:
        check_teacher(network, teacher)
    if backbone_weights is not None:
        load_backbone_weights_(network, backbone_weights)
    folder = TrainingFolder(output.out, data.preprocessing, output.tensorboard)
    settings = {
        "model": named.model,
        "data": images.data_name,
        "options": {n: str(v) if isinstance(v, Path) else v for n, v in named.options.items()},
        "backbone_weights": str(backbone_weights) if backbone_weights else None,
        "teacher": named_teacher.settings(),
        "recipe": dataclasses.asdict(recipe),
        "command": shlex.join(["ghostify", *sys.argv[1:]]),
    }
    with kept("go on with --resume"), progress_bars() as progress:
        training = train_and_score_detector(
            network,
            data,
            recipe,
            teacher=teacher,
            options=RunOptions(images.device, images.workers, folder.checkpoint, output.resume),
            folder=folder,
            settings=settings,
            progress=progress,
        )
    score = training.score
    if score is None:
        return

    def tables() -> None:
        print_history(training.history)
        print_score(score)
        print(f"wrote {training.file}")

    show(training.record, as_json, tables)


@detect.command()
@bundle("named", NamedDetector, click.argument("model"), detector_options)
@bundle("images", BoxImages, coco_option, machine_options)
@click.option(
    "--file",
    "exported",
    type=ExistingFile(),
    help="Take the outputs of MODEL's plain part from this file of `ghostify export`, such as network.int8.onnx.",
)
@click.option("--per-class", is_flag=True, help="Print the average precision of each category, the least first.")
@out_option("Folder for detections.json, COCO's result rows.", DETECTIONS, required=False)
@json_option
def evaluate(
    named: NamedDetector, images: BoxImages, exported: Path | None, per_class: bool, out: Path | None, as_json: bool
) -> None:
    """Score MODEL on the val images: COCO's twelve numbers."""
    refuse_missing("pycocotools")
    file = None if exported is None else FileNetwork(exported)
    if file is not None:
        refuse_engine(file.engine)
    network, data = named.open_with(images)
    network.to(images.device)
    if file is not None:
        network = detector_by_file(network, file)
    started = time.perf_counter()
    with progress_bars() as progress:
        score, found = evaluate_detector(
            network, data.test, data, device=images.device, workers=images.workers, progress=progress
        )
    per_second = score.images / (time.perf_counter() - started)
    if out is not None:
        write_found(out, found)
    result = {
        "model": named.model,
        "file": None if exported is None else str(exported),
        "data": images.data_name,
        **dataclasses.asdict(score),
        "images_per_second": round(per_second, 2),
        "environment": describe_environment(images.device),
    }

    def tables() -> None:
        if per_class:
            rows = sorted(score.categories.items(), key=lambda row: -1.0 if row[1] is None else row[1])
            print_table(("category", "AP, %"), [(name, percent(ap)) for name, ap in rows])
        print_score(score)
        print(f"{per_second:.1f} images a second, reading, decoding and scoring included")

    show(result, as_json, tables)


@detect.command()
@bundle("named", NamedDetector, click.argument("model"), classes_option(), detector_options)
@click.argument("images", nargs=-1, required=True, type=Path)
@click.option("--least-score", type=SHARE, default=0.5, help="Show objects of at least this score.")
@device_option
@threads_option
@out_option("Folder for the images with boxes, and detections.json.", DETECTIONS)
@json_option
def predict(
    named: NamedDetector, images: tuple[Path, ...], least_score: float, device: str, out: Path, as_json: bool
) -> None:
    """Draw what MODEL finds on IMAGES: files or folders of them."""
    image_files(images)
    network = named.open().to(device)
    refuse_other_kind(named, network, detector=True)
    found = find_in_files(network, images, named.extra.get("classes"), out, least_score=least_score, device=device)
    write_drawings(out, found)

    def tables() -> None:
        print_table(("image", "objects", "written"), [(str(p.path), p.summary, str(p.drawing)) for p in found], 3)

    show({"model": named.model, "out": str(out), "images": [p.row for p in found]}, as_json, tables)


def print_score(score: CocoScore) -> None:
    for kind in ("AP", "AR"):  # all in one line are more than a terminal has
        names = [name for name in NUMBERS if name.startswith(kind)]
        print_table(names, [[percent(score.numbers[name]) for name in names]], left=0)
    say(f"COCO's twelve numbers, %, of {score.found} boxes in {score.images} images")
