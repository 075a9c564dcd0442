"""`ghostify train`: weights fitted to labelled images."""

import dataclasses
import shlex
import sys

import click

from ghostify.cli.beforehand import open_both, refuse_unsavable
from ghostify.cli.opening import NamedImages, NamedNetwork
from ghostify.cli.options import (
    ABOVE_0,
    TrainingOutput,
    builder_options,
    bundle,
    changed_by_user,
    data_options,
    new_head_option,
    recipe_options,
    source_options,
    training_output,
)
from ghostify.cli.output import json_option, kept, print_history, progress_bars, say, score_text, show
from ghostify.cli.teacher import NamedTeacher, teacher_options
from ghostify.data import ImageData
from ghostify.data.sources import augmented
from ghostify.errors import InputError
from ghostify.jobs.evaluate import check_fit
from ghostify.jobs.learn import RunOptions, refuse_recording, refuse_to_overwrite
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.recipes import ROWS, Row
from ghostify.jobs.train import Teacher, train_and_score
from ghostify.jobs.training_folder import CHECKPOINT, TrainingFolder


@click.command()
@bundle(
    "named",
    NamedNetwork,
    click.argument("model", default=""),
    source_options,
    new_head_option,
    builder_options,
)
@click.option(
    "--recipe",
    "row_name",
    type=click.Choice(ROWS),
    help="Train for a published row of `ghostify recipes`, without MODEL.",
)
@data_options(hold_out=0.1)
@bundle("recipe", Recipe, recipe_options())
@bundle(
    "named_teacher",
    NamedTeacher,
    teacher_options("labels"),
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
    row_name: str | None,
    images: NamedImages,
    recipe: Recipe,
    named_teacher: NamedTeacher,
    output: TrainingOutput,
    as_json: bool,
) -> None:
    """Train MODEL on DATA and score it on the test images. torchrun may start several processes.

    With --recipe the network and all settings are those of a published row, but for what is set beside it, and
    for a tenth of the images that is held out to watch it; --hold-out 0 learns from all.
    """
    if bool(named.model) == bool(row_name):
        raise InputError("expected a MODEL or --recipe NAME, and not both")
    row = None if row_name is None else ROWS[row_name]
    if row is not None:
        recipe, named = changed_by_user(row.recipe, recipe), network_of(row, named)
    refuse_to_overwrite(output.out / CHECKPOINT, output.resume)
    teachers_file = named_teacher.named(named.factory)
    teacher = named_teacher.open(teachers_file)
    network, data = open_both(named, images, recipe.seed)
    if teachers_file is not None:
        refuse_other_images(teachers_file, data)
    check_fit(network, data)
    if teacher is not None:
        check_fit(teacher.network, data)
    refuse_unsavable(network)
    augmented(data, recipe.color_jitter, recipe.rand_augment)  # refused where it cannot be
    if recipe.cuda_graph:
        refuse_recording(images.device)
    folder = TrainingFolder(output.out, data.preprocessing, output.tensorboard)
    settings = {
        "model": named.model,
        "row": row_name,
        "data": data.name,
        "recipe": dataclasses.asdict(recipe),
        "teacher": named_teacher.settings(),
        "published": {"top1": row.top1, "top5": row.top5, "source": row.source} if row else None,
        "command": shlex.join(["ghostify", *sys.argv[1:]]),
    }
    with kept("go on with --resume"), progress_bars() as progress:
        training = train_and_score(
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
        say(f"{score_text(score)}; wrote {training.file}")
        if row is not None:
            say(f"Published: {row.top1} % after {row.recipe.epochs} epochs of {row.data} ({row.source}).")

    show(training.record, as_json, tables)


def refuse_other_images(teacher: NamedNetwork, data: ImageData) -> None:
    """Refuse images of other classes than the teacher's, or that are normalised otherwise."""
    teacher.refuse_other_classes(data.name, data.classes)
    for name, values in teacher.channels.items():
        if values != getattr(data, name):
            expected = ",".join(f"{value:g}" for value in values)
            raise InputError(f"{teacher.model} learned from images with another {name}: expected --{name} {expected}")


def network_of(row: Row, named: NamedNetwork) -> NamedNetwork:
    """The network of a published row, but for the options that the user set."""
    left_open = {name: value for name, value in row.options.items() if getattr(named, name) is None}
    return dataclasses.replace(named, model=row.model, **left_open)
