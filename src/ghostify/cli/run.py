"""`ghostify run`: a trained network and a speed in, a faster file and the proof out."""

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from ghostify.cli.beforehand import open_before
from ghostify.cli.calibration import check_sources, data_of_photographs, photographs_option
from ghostify.cli.opening import NamedImages, NamedNetwork
from ghostify.cli.options import (
    THREADS,
    Number,
    Sectioned,
    bundle,
    calibration_options,
    data_options,
    engine_option,
    new_head_option,
    out_option,
    recipe_options,
    skip_option,
    source_options,
)
from ghostify.cli.output import interval, json_option, kept, percent, print_table, progress_bars, say, show
from ghostify.cli.segment import NamedMasks
from ghostify.data.coco import load_coco
from ghostify.data.masks import PARTS
from ghostify.errors import InputError
from ghostify.inference.engines import FILE_ENGINES
from ghostify.jobs.boxes_of_run import boxes_of_run
from ghostify.jobs.classes_of_run import ClassesOfRun
from ghostify.jobs.images_of_run import HELD_OUT, Data
from ghostify.jobs.masks_of_run import MasksOfRun
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.run_settings import METRICS, RESULTS, STEPS, RunSettings, Tuning, refuse_finished
from ghostify.jobs.steps import ABOUT
from ghostify.needed import is_installed, refuse_engine, refuse_missing
from ghostify.plain_part import is_detector
from ghostify.transform.reconstruct import Effort


@dataclass(frozen=True)
class Wish:
    """The wishes of the user, see ``run``."""

    target_speedup: float | None
    max_accuracy_drop: float | None
    sweep: bool
    int8: bool
    tune: str
    labels: bool
    engine: str | None
    threads: int
    rivals: bool
    image_count: int
    effort: Effort
    skip: tuple[str, ...]

    def settings(self) -> RunSettings:
        """The same, checked."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        images = values.pop("image_count")
        return RunSettings(**{**values, "tune": Tuning.of(self.tune), "images": images})


@click.command(cls=Sectioned)
@bundle(
    "named",
    NamedNetwork,
    click.option("--model", default="resnet20", help="MODEL to make faster, see `ghostify --help`."),
    source_options,
    new_head_option,
)
@data_options(required=False, threads=False)
@photographs_option
@bundle(
    "wish",
    Wish,
    click.option(
        "--target-speedup",
        type=Number(1, min_open=True),
        help="Reach this speed over the original in float32, measured here: 2 is twice as fast.",
    ),
    click.option(
        "--max-accuracy-drop",
        type=Number(0, 100, max_open=True),
        help="Or find the fastest network that loses at most so many points of its score before it learns, such as "
        "0.5. Held-out images judge it.",
    ),
    click.option("--sweep", is_flag=True, help="Or make networks of several speeds, each in a folder of its own."),
    click.option("--int8", is_flag=True, help="Plan for the times in int8, and write the file in it."),
    click.option(
        "--tune",
        default="10min",
        help="How long the network learns from the original, without labels: epochs, such as 5, or minutes, such as "
        "10min; 0 for not at all.",
    ),
    click.option("--labels", is_flag=True, help="Learn from labels, too, for a tenth of the loss."),
    engine_option(FILE_ENGINES, None, shown="the faster one here"),
    click.option("--threads", type=THREADS, default=1, help="CPU threads of the engine."),
    click.option(
        "--rivals",
        is_flag=True,
        help="Make the paper's ghost and the network pruned by Torch-Pruning, too, and score and time int8.",
    ),
    calibration_options("refined"),
    skip_option,
)
@bundle(
    "recipe",
    Recipe,
    recipe_options(only_with="a MODEL that is not trained", epochs=6, batch_size=64, lr=0.05),
)
@out_option("Folder for the faster file, the network, plan, figures and report.", *RESULTS, default=Path("faster"))
@json_option
def run(
    named: NamedNetwork,
    images: NamedImages,
    photographs: Path | None,
    wish: Wish,
    recipe: Recipe,
    out: Path,
    as_json: bool,
) -> None:
    """Make a trained network as fast as you want, measured here, and keep what it knows.

    Plans for the speed, converts without labels, learns from the original, and writes the file for the engine, checked,
    scored and timed, with a report. Called again with the same --out, it goes on where it was. A MODEL that classifies
    and has no --weights is trained first, with labels. --data coco:DIR or voc:DIR is for networks that find objects or
    name the class of each pixel. --calibration takes photographs without classes, for one that classifies: then right
    is what the original answers.
    """
    refuse_missing("matplotlib", "jinja2")
    from ghostify.verbs import run as job  # here: drawing, templates and pruning are an extra that other verbs spare

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("run measures, and is for one process: use train under torchrun")
    settings = wish.settings()
    engine = wish.engine or next(filter(is_installed, FILE_ENGINES), FILE_ENGINES[0])
    refuse_engine(engine, *(["int8"] if wish.int8 else []))
    refuse_finished(out, (out / STEPS / ABOUT).exists())
    if images.data_name is None and photographs is None and named.model == "resnet20":
        images = dataclasses.replace(images, data_name="digits")
    check_sources(images, photographs, needed_by="run")
    torch.manual_seed(recipe.seed)
    model, data = opened(named, images, photographs, recipe)
    if photographs is None and not is_trained(named, model, data, images):
        if not isinstance(data, ClassesOfRun):
            raise InputError(
                f"{named.model} is not trained: name its --weights, or a file that `ghostify detect train` or "
                "`ghostify segment train` wrote"
            )
        settings = dataclasses.replace(settings, recipe=recipe)
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    values |= {"tune": wish.tune, "device": images.device, "workers": images.workers, "seed": recipe.seed}
    with kept("the same call goes on with it"), progress_bars() as progress:
        found = job.run(model, data, out=out, progress=progress, say=tell, **values)
    show(found.metrics, as_json, lambda: print_run(found, out))


def tell(text: str) -> None:
    """A sentence on the way, on standard error."""
    print(text, file=sys.stderr, flush=True)


def opened(named: NamedNetwork, images: NamedImages, photographs: Path | None, recipe: Recipe) -> tuple[nn.Module, Any]:
    """The network and its images."""
    if photographs is not None:
        network = named.open()
        if is_detector(network):
            raise InputError(f"{named.model} finds objects: expected --data, images with boxes that judge it")
        data, extra = data_of_photographs(photographs, named, network.eval(), images, recipe.seed)
        return network, ClassesOfRun(data, labelled=False, preprocessing=extra)
    if str(images.data_name).partition(":")[0] in PARTS:
        return opened_with_objects(named, images, recipe)
    open_before(named)
    found = dataclasses.replace(images, hold_out=HELD_OUT).open(named)
    named.refuse_other_classes(found.name, found.classes)
    torch.manual_seed(recipe.seed)
    return named.open_for(found), ClassesOfRun(found, preprocessing={**named.extra, **found.preprocessing})


def opened_with_objects(named: NamedNetwork, images: NamedImages, recipe: Recipe) -> tuple[nn.Module, Data]:
    """A network and images with boxes, where it finds objects, else with masks."""
    name = str(images.data_name)
    of_two = named.with_classes(2)
    if not is_detector((named if of_two is named else dataclasses.replace(of_two, weights=None, new_head=None)).open()):
        masked = NamedMasks(
            name, images.image_size, images.mean, images.std, images.device, images.workers, hold_out=HELD_OUT
        )
        network, masks = masked.open_with(named, recipe.seed)
        return network, MasksOfRun(masks, preprocessing={**named.extra, **masks.preprocessing})
    for option, value in (("--image-size", images.image_size), ("--mean", images.mean), ("--std", images.std)):
        if value is not None:
            raise InputError(f"{option}: {named.model} finds objects, and has its own: leave it out")
    refuse_missing("pycocotools")
    boxes = load_coco(name, hold_out=HELD_OUT)
    named.refuse_other_classes(boxes.name, boxes.classes)
    network = named.with_classes(len(boxes.classes)).open()
    return network, boxes_of_run(boxes, network, named.extra)


def is_trained(named: NamedNetwork, model: nn.Module, data: Data, images: NamedImages) -> bool:
    """True for a network with weights; one of the user's own builder may have brought them."""
    if named.file is not None or (named.weights is not None and not named.new_head):
        return True
    if named.weights is not None or ":" not in named.model or named.model.startswith(("torchvision:", "timm:")):
        return False
    data.check(model)
    score = data.held_out_score(model, images.device, images.workers)
    trained = score > data.of_a_trained_one
    what = "taken as trained" if trained else "not trained yet"
    tell(f"{named.model} has no --weights, and {data.measure} {100 * score:.1f} % on held-out images: it is {what}")
    return trained


def print_run(found: Any, out: Path) -> None:
    """The table, the result in sentences, and how the file is loaded."""
    unit = f"{found.metrics['score']}, %" if found.metrics["labelled"] else "original's\nanswers, %"
    rows = [
        (
            row.name,
            "float32" if row.precision == "fp32" else row.precision,
            interval(100 * row.score, 100 * row.score_low, 100 * row.score_high, 1),
            percent(row.agreement),
            interval(row.speedup, row.speedup_low, row.speedup_high, 2),
            figure(row.ms, 3),
            figure(row.size_mb, 2),
        )
        for row in found.table
    ]
    print_table(("network", "in", unit, "same\nanswers, %", "times as fast", "ms", "MB"), rows, left=2)
    for finding in found.findings:
        say(f"- {finding}", "  ")
    say(
        f"Wrote {', '.join(map(str, found.files))}; {found.report}, {out / METRICS} and the network to train on beside."
    )
    for line in how_to_load(found.files[-1]):
        print(line)


def figure(value: float, digits: int) -> str:
    """A number with so many digits behind the point, or none where it is large."""
    return f"{value:.{digits}f}" if value < 100 else f"{value:.0f}"


def how_to_load(file: Path) -> list[str]:
    """Lines of Python that load the file in the engines that read it."""
    lines = [f'OpenVINO:      network = openvino.compile_model("{file}", "CPU")']
    if file.suffix == ".onnx":
        lines.append(f'ONNX Runtime:  network = onnxruntime.InferenceSession("{file}")')
    return lines
