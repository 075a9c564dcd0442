"""`ghostify train`: weights fitted to labelled images."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import torch

from ghostify.cli.opening import Channels, channels_of, extra_of, images_for, open_for
from ghostify.cli.options import ghost_options, hints_option, json_option, take_recipe, training_options
from ghostify.cli.output import first_process, print_history, progress_bars, score_row, score_text, show
from ghostify.errors import InputError
from ghostify.jobs.evaluate import evaluate
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipes import ROWS
from ghostify.jobs.train import Teacher
from ghostify.jobs.train import train as train_network
from ghostify.jobs.training_folder import HISTORY, NETWORK, TrainingFolder
from ghostify.measure.environment import describe_environment
from ghostify.network_file import load, save


@click.command()
@click.argument("model", required=False)
@click.option("--recipe", "row_name", type=click.Choice(ROWS), help="A published row, see `ghostify recipes`.")
@training_options()
@ghost_options()
@click.option("--teacher", type=Path, help="Network file to learn from beside the labels, such as a ghost's original.")
@click.option("--teacher-weight", type=float, default=Teacher.weight, show_default=True, help="Of the loss, 0..1.")
@click.option("--temperature", type=float, default=Teacher.temperature, show_default=True, help="Of the teacher.")
@hints_option
@click.option("--tensorboard", is_flag=True, help="Log for TensorBoard, too.")
@click.option("--out", type=Path, required=True, help="Folder for settings, log, checkpoint, best and last network.")
@json_option
def train(
    model: str | None,
    row_name: str | None,
    data_name: str,
    hold_out: float,
    out: Path,
    resume: bool,
    teacher: Path | None,
    teacher_weight: float,
    temperature: float,
    hints: bool,
    tensorboard: bool,
    image_size: int | None,
    mean: Channels,
    std: Channels,
    device: str,
    workers: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Train MODEL on DATA and score it on the test images. torchrun may start several processes.

    With --recipe the network and all settings are those of a published row, but for what is given beside it, and
    for a tenth of the images that is held out to watch it; --hold-out 0 learns from all.
    """
    if (model is None) == (row_name is None):
        raise InputError("expected a MODEL or --recipe NAME, and not both")
    if hints and teacher is None:
        raise InputError("--hints are a teacher's: name it with --teacher")
    row = ROWS[row_name] if row_name is not None else None
    recipe = take_recipe(options, row.recipe if row else None)
    if row is not None:
        model = row.model
        options |= {name: value for name, value in row.options.items() if options[name] is None}
    data = images_for(str(model), data_name, image_size, mean, std, hold_out)
    torch.manual_seed(recipe.seed)
    network = open_for(data, str(model), options)
    known = load(teacher, factory=options["factory"]) if teacher else None
    for name, values in (channels_of(str(teacher), extra_of(str(teacher))) if teacher else {}).items():
        if values != getattr(data, name):
            told = ",".join(f"{value:g}" for value in values)
            raise InputError(f"{teacher} learned from images with another {name}: expected --{name} {told}")
    folder = TrainingFolder(out, data.preprocessing, tensorboard)
    settings = {
        "model": model,
        "row": row_name,
        "data": data_name,
        "recipe": dataclasses.asdict(recipe),
        "teacher": {"network": str(teacher), "weight": teacher_weight, "temperature": temperature, "hints": hints}
        if teacher
        else None,
        "command": shlex.join(["ghostify", *sys.argv[1:]]),
    }
    if first_process():
        folder.begin(settings, device)
    with progress_bars() as progress:
        history = train_network(
            network,
            data,
            recipe,
            teacher=Teacher(known, teacher_weight, temperature, hints) if known else None,
            options=RunOptions(device, workers, folder.checkpoint, resume),
            progress=progress,
            after_epoch=folder.after_epoch,
        )
    if not first_process():
        return
    score = evaluate(network, data.test, data, device=device, workers=workers)
    save(network, out / NETWORK, extra=data.preprocessing)
    result = {
        **settings,
        "history": [dataclasses.asdict(epoch) for epoch in history],
        **score_row(score),
        "published": {"top1": row.top1, "top5": row.top5, "source": row.source} if row else None,
        "environment": describe_environment(device),
        "out": str(out / NETWORK),
    }
    folder.write_json(HISTORY, result)

    def tables() -> None:
        print_history(history)
        print(f"{score_text(score)}; wrote {out / NETWORK}")
        if row is not None:
            print(f"Published: {row.top1} % after {row.recipe.epochs} epochs of {row.data} ({row.source}).")

    show(result, as_json, tables)
