"""`ghostify detect`: detectors learn, are scored, and show what they find."""

import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from ghostify.atomic import replacing
from ghostify.cli.opening import extra_of, open_given, refuse_other_classes, with_classes
from ghostify.cli.options import (
    channels,
    classes_option,
    deviations,
    device_option,
    ghost_options,
    json_option,
    machine_options,
    recipe_options,
    source_options,
    take_recipe,
    threads_option,
    together,
)
from ghostify.cli.output import first_process, percent, print_history, print_table, progress_bars, show
from ghostify.data.coco import DetectionData, load_coco
from ghostify.jobs.boxes import draw_boxes, find_in_files
from ghostify.jobs.coco_score import NUMBERS, CocoScore
from ghostify.jobs.detect import evaluate_detector, train_detector
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.training_folder import HISTORY, NETWORK, TrainingFolder
from ghostify.measure.environment import describe_environment
from ghostify.models.backbone_weights import load_backbone_weights_
from ghostify.network_file import save

coco_option = click.option(
    "--data", "data_name", required=True, help="coco:DIR or coco:DIR?train=NAME&val=NAME, COCO's layout."
)
# All of a recipe but what only a classification can have.
LEARNING = [
    field.name
    for field in dataclasses.fields(Recipe)
    if field.name not in ("label_smoothing", "color_jitter", "rand_augment")
]
detector_options = together(
    click.option("--fpn-channels", type=int, help="Maps at each level of the pyramid; default: 256."),
    click.option("--min-size", type=int, help="To which an image's shorter side is brought; default: 800."),
    click.option("--max-size", type=int, help="Most that its longer side may have then; default: 1333."),
    click.option("--smallest-anchor", type=int, help="Side of the smallest anchor boxes, pixels; default: 32."),
    click.option(
        "--norm/--no-norm", default=None, help="Normalise pyramid and head, to learn without ImageNet weights."
    ),
    click.option("--mean", "image_mean", callback=channels, help="Of the channels in 0..1; default: ImageNet's."),
    click.option("--std", "image_std", callback=deviations, help="Likewise."),
    ghost_options(),
    source_options,
)


@click.group()
def detect() -> None:
    """Find objects: train, score and show detectors on images with boxes, COCO's layout.

    MODEL is a detector of `ghostify models`, or a file that ghostify wrote.
    """


@detect.command()
@click.argument("model")
@coco_option
@detector_options
@click.option("--backbone-weights", type=Path, help="Of the backbone's classification network, of any classes.")
@machine_options
@recipe_options(*LEARNING, epochs=12, batch_size=8, optimizer="adamw", lr=1e-3, weight_decay=0.01)
@click.option("--hold-out", type=float, default=0.0, show_default=True, help="Share of train held out to watch it.")
@click.option("--resume", is_flag=True, help="Go on with what began in --out.")
@click.option("--tensorboard", is_flag=True, help="Log for TensorBoard, too.")
@click.option("--out", type=Path, required=True, help="Folder for settings, log, checkpoint and network.")
@json_option
def train(
    model: str,
    data_name: str,
    backbone_weights: Path | None,
    device: str,
    workers: int,
    hold_out: float,
    resume: bool,
    tensorboard: bool,
    out: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Train MODEL on images with boxes and score it on val. torchrun may start several processes."""
    recipe = take_recipe(options)
    data = load_coco(data_name, hold_out=hold_out)
    torch.manual_seed(recipe.seed)
    network = open_detector(model, data, options)
    if backbone_weights is not None:
        load_backbone_weights_(network, backbone_weights)
    known = {"classes": data.classes, "category_ids": data.category_ids}
    folder = TrainingFolder(out, known, tensorboard)
    settings = {
        "model": model,
        "data": data_name,
        "options": {n: str(v) if isinstance(v, Path) else v for n, v in options.items() if v is not None},
        "backbone_weights": str(backbone_weights) if backbone_weights else None,
        "recipe": dataclasses.asdict(recipe),
        "command": shlex.join(["ghostify", *sys.argv[1:]]),
    }
    if first_process():
        folder.begin(settings, device)
    started = time.perf_counter()
    with progress_bars() as progress:
        history = train_detector(
            network,
            data,
            recipe,
            options=RunOptions(device, workers, folder.checkpoint, resume),
            progress=progress,
            after_epoch=folder.after_epoch,
        )
    seconds = time.perf_counter() - started
    if not first_process():
        return
    save(network, out / NETWORK, extra=known)
    with progress_bars() as progress:
        score, _ = evaluate_detector(network, data.test, data, device=device, workers=workers, progress=progress)
    result = {
        **settings,
        "history": [dataclasses.asdict(epoch) for epoch in history],
        "seconds": round(seconds, 1),
        **dataclasses.asdict(score),
        "environment": describe_environment(device),
        "out": str(out / NETWORK),
    }
    folder.write_json(HISTORY, result)

    def tables() -> None:
        print_history(history)
        print_score(score)
        print(f"wrote {out / NETWORK}")

    show(result, as_json, tables)


@detect.command()
@click.argument("model")
@coco_option
@detector_options
@machine_options
@click.option("--per-class", is_flag=True, help="Print the average precision of each category, the least first.")
@click.option("--out", type=Path, help="Folder for detections.json, COCO's result rows.")
@json_option
def evaluate(
    model: str,
    data_name: str,
    device: str,
    workers: int,
    per_class: bool,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Score MODEL on the val images: COCO's twelve numbers."""
    data = load_coco(data_name)
    network = open_detector(model, data, options).to(device)
    started = time.perf_counter()
    with progress_bars() as progress:
        score, found = evaluate_detector(network, data.test, data, device=device, workers=workers, progress=progress)
    per_second = score.images / (time.perf_counter() - started)
    if out is not None:
        with replacing(out / "detections.json") as temporary:
            temporary.write_text(json.dumps(found) + "\n")
    result = {
        "model": model,
        "data": data_name,
        **dataclasses.asdict(score),
        "images_per_second": round(per_second, 2),
        "environment": describe_environment(device),
    }

    def tables() -> None:
        if per_class:
            rows = sorted(score.categories.items(), key=lambda row: -1.0 if row[1] is None else row[1])
            print_table(("category", "AP, %"), [(name, percent(ap)) for name, ap in rows])
        print_score(score)
        print(f"{per_second:.1f} images a second, reading, decoding and scoring included")

    show(result, as_json, tables)


@detect.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, type=Path)
@click.option("--least-score", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Of what is shown.")
@classes_option
@detector_options
@device_option
@threads_option
@click.option("--out", type=Path, required=True, help="Folder for the images with boxes, and detections.json.")
@json_option
def predict(
    model: str,
    images: tuple[Path, ...],
    least_score: float,
    device: str,
    out: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw what MODEL finds on IMAGES: files or folders of them."""
    network = open_given(model, options).to(device)
    names = extra_of(model).get("classes")
    found = find_in_files(network, images, names, out, least_score=least_score, device=device)
    for picture in found:
        with replacing(picture.drawing) as temporary:
            draw_boxes(picture).save(temporary, format="PNG")
    rows = {"images": [picture.row for picture in found]}
    with replacing(out / "detections.json") as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n")

    def tables() -> None:
        print_table(("image", "objects", "written"), [(str(p.path), p.summary, str(p.drawing)) for p in found], 3)

    show({"model": model, "out": str(out), **rows}, as_json, tables)


def open_detector(model: str, data: DetectionData, options: dict[str, Any]) -> nn.Module:
    """The detector, for as many categories as the data has where that is left open; a file must know the same ones."""
    network = open_given(model, with_classes(model, len(data.classes), options))
    refuse_other_classes(model, data.name, data.classes)
    return network


def print_score(score: CocoScore) -> None:
    print_table(NUMBERS, [[percent(score.numbers[name]) for name in NUMBERS]], left=0)
    print(f"COCO's twelve numbers, %, of {score.found} boxes in {score.images} images")
