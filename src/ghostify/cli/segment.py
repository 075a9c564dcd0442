"""`ghostify segment`: networks that name the class of each pixel learn and are scored."""

import dataclasses
import shlex
import sys
import time
from dataclasses import dataclass

import click
import torch
from torch import nn

from ghostify.cli.beforehand import open_before, refuse_unsavable
from ghostify.cli.opening import Channels, NamedNetwork, NamedNetworkOrFile, channels_for
from ghostify.cli.options import (
    ABOVE_0,
    PIXELS,
    TrainingOutput,
    builder_options,
    bundle,
    hold_out_option,
    machine_options,
    mean_and_std_options,
    new_head_option,
    recipe_options,
    source_options,
    together,
    training_output,
)
from ghostify.cli.output import json_option, kept, percent, print_history, print_table, progress_bars, say, show
from ghostify.cli.teacher import NamedTeacher, teacher_options
from ghostify.data.masks import MaskData, load_masks
from ghostify.errors import InputError
from ghostify.jobs.learn import RunOptions, refuse_to_overwrite
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.segment import MaskScore, check_maps, evaluate_segmenter, train_and_score_segmenter
from ghostify.jobs.train import Teacher
from ghostify.jobs.training_folder import CHECKPOINT, TrainingFolder
from ghostify.measure.environment import describe_environment
from ghostify.needed import refuse_engine, refuse_missing


@dataclass(frozen=True)
class NamedMasks:
    """Images with masks as the user names them, how they are prepared, and on which device they are computed.

    Args:
        image_size: Side of the images, pixels; None: the network file's.
        mean, std: Those of each channel, in 0..1; None: the network file's, else ImageNet's.
    """

    data_name: str
    image_size: int | None
    mean: Channels
    std: Channels
    device: str
    workers: int
    hold_out: float = 0.0

    def open_with(self, named: NamedNetwork, seed: int = 0) -> tuple[nn.Module, MaskData]:
        """A network, and images sized and normalised for it.

        It is for as many classes as these have where that is left open; a file must have the same.
        """
        if self.data_name.startswith("coco:"):
            refuse_missing("pycocotools")
        torch.manual_seed(seed)
        network = open_before(named)
        size = self.image_size or named.side
        if size is None:
            raise InputError(f"{named.model} does not say how large its images are: expected --image-size, such as 224")
        data = load_masks(self.data_name, image_size=size, hold_out=self.hold_out)
        data = dataclasses.replace(data, **channels_for(named, self.mean, self.std, data))
        named.refuse_other_classes(data.name, data.classes)
        torch.manual_seed(seed)
        network = network or named.with_classes(len(data.classes)).open()
        check_maps(network, data)
        return network, data


mask_options = together(
    click.option(
        "--data",
        "data_name",
        required=True,
        help="DATA with masks: voc:DIR, coco:DIR, or coco:DIR?classes=person,dog, where all else is background.",
    ),
    click.option(
        "--image-size",
        type=PIXELS,
        show_default="the network's own",
        help="Side of the squares that images become, pixels.",
    ),
    mean_and_std_options("the network's, else ImageNet's"),
    machine_options,
)
# All of a recipe but what only a classification can have.
LEARNING = [
    field.name
    for field in dataclasses.fields(Recipe)
    if field.name not in ("color_jitter", "rand_augment", "cuda_graph")
]


@click.group()
def segment() -> None:
    """Name the class of each pixel: train and score networks on images with masks, VOC's layout or COCO's.

    MODEL is a network whose output is [batch, classes, height, width], such as
    torchvision:lraspp_mobilenet_v3_large, or a file that ghostify wrote.
    """


@segment.command()
@bundle("named", NamedNetwork, click.argument("model"), source_options, new_head_option, builder_options)
@bundle("images", NamedMasks, mask_options, hold_out_option(0.0))
@bundle(
    "recipe",
    Recipe,
    recipe_options(*LEARNING, epochs=60, batch_size=16, optimizer="adamw", lr=1e-3, weight_decay=0.01),
)
@bundle(
    "named_teacher",
    NamedTeacher,
    teacher_options("masks"),
    click.option(
        "--temperature",
        type=ABOVE_0,
        default=Teacher.temperature,
        help="Temperature that softens both networks' answers.",
    ),
)
@training_output("settings, log, checkpoint, best and last network")
@json_option
def train(
    named: NamedNetwork,
    images: NamedMasks,
    recipe: Recipe,
    named_teacher: NamedTeacher,
    output: TrainingOutput,
    as_json: bool,
) -> None:
    """Train MODEL on images with masks and score it on val. torchrun may start several processes."""
    refuse_to_overwrite(output.out / CHECKPOINT, output.resume)
    teacher = named_teacher.open(named_teacher.named(named.factory))
    network, data = images.open_with(named, recipe.seed)
    refuse_unsavable(network)
    if teacher is not None:
        check_maps(teacher.network, data)
    folder = TrainingFolder(output.out, data.preprocessing, output.tensorboard)
    settings = {
        "model": named.model,
        "data": data.name,
        "recipe": dataclasses.asdict(recipe),
        "teacher": named_teacher.settings(),
        "command": shlex.join(["ghostify", *sys.argv[1:]]),
    }
    with kept("go on with --resume"), progress_bars() as progress:
        training = train_and_score_segmenter(
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
        say(f"{words_of(score)}; wrote {training.file}")

    show(training.record, as_json, tables)


@segment.command()
@bundle("named", NamedNetworkOrFile, click.argument("model"), source_options, builder_options)
@bundle("images", NamedMasks, mask_options)
@click.option("--per-class", is_flag=True, help="Print the intersection over union of each class, the least first.")
@json_option
def evaluate(named: NamedNetworkOrFile, images: NamedMasks, per_class: bool, as_json: bool) -> None:
    """Score MODEL, or an exported file, on the val images: mean intersection over union."""
    if named.exported is not None:
        refuse_engine(named.exported.engine)
    network, data = images.open_with(named)
    network.to(images.device)
    started = time.perf_counter()
    with progress_bars() as progress:
        score = evaluate_segmenter(
            network, data.test, data, device=images.device, workers=images.workers, progress=progress
        )
    per_second = score.images / (time.perf_counter() - started)
    result = {
        "model": named.model,
        "engine": named.exported.engine if named.exported else "eager",
        "data": data.name,
        "image_size": data.image_size,
        "mean": data.mean,
        "std": data.std,
        **score.numbers(),
        "images_per_second": round(per_second, 2),
        "environment": describe_environment(images.device),
    }

    def tables() -> None:
        if per_class:
            rows = sorted(score.ious.items(), key=lambda row: -1.0 if row[1] is None else row[1])
            print_table(("class", "IoU, %"), [(name, percent(iou)) for name, iou in rows])
        say(f"{words_of(score)}, {per_second:.0f} images a second, reading and decoding included")

    show(result, as_json, tables)


def words_of(score: MaskScore) -> str:
    """A score in words."""
    classes = sum(iou is not None for iou in score.ious.values())
    return (
        f"mean IoU {percent(score.mean_iou)} % over {classes} classes, {percent(score.pixel_accuracy)} % of the pixels "
        f"right, of {score.images} images"
    )
