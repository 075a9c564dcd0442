"""`ghostify train`: weights fitted to labelled images."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
import torch

from ghostify.atomic import replacing
from ghostify.cli.opening import Channels, normalised_for, open_for
from ghostify.cli.options import ghost_options, json_option, take_recipe, training_options
from ghostify.cli.output import first_process, print_history, progress_bars, score_row, score_text, show
from ghostify.data import load_data
from ghostify.jobs.evaluate import evaluate
from ghostify.jobs.train import Teacher
from ghostify.jobs.train import train as train_network
from ghostify.measure.environment import describe_environment
from ghostify.network_file import load, save


@click.command()
@click.argument("model")
@training_options()
@ghost_options()
@click.option("--teacher", type=Path, help="Network file to learn from beside the labels, such as a ghost's original.")
@click.option("--teacher-weight", type=float, default=Teacher.weight, show_default=True, help="Of the loss, 0..1.")
@click.option("--temperature", type=float, default=Teacher.temperature, show_default=True, help="Of the teacher.")
@click.option("--out", type=Path, required=True, help="Folder for network.safetensors, history.json, checkpoint.pt.")
@json_option
def train(
    model: str,
    data_name: str,
    hold_out: float,
    out: Path,
    resume: bool,
    teacher: Path | None,
    teacher_weight: float,
    temperature: float,
    image_size: int | None,
    mean: Channels,
    std: Channels,
    device: str,
    workers: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Train MODEL on DATA and score it on the test images. torchrun may start several processes."""
    recipe = take_recipe(options)
    data = normalised_for(model, load_data(data_name, image_size=image_size, hold_out=hold_out), mean, std)
    torch.manual_seed(recipe.seed)
    network = open_for(data, model, options)
    known = load(teacher, factory=options["factory"]) if teacher else None
    with progress_bars() as progress:
        history = train_network(
            network,
            data,
            recipe,
            teacher=Teacher(known, teacher_weight, temperature) if known else None,
            checkpoint=out / "checkpoint.pt",
            resume=resume,
            device=device,
            workers=workers,
            progress=progress,
        )
    if not first_process():
        return
    score = evaluate(network, data.test, data, device=device, workers=workers)
    save(network, out / "network.safetensors", extra=data.preprocessing)
    result = {
        "model": model,
        "data": data_name,
        "recipe": dataclasses.asdict(recipe),
        "teacher": {"network": str(teacher), "weight": teacher_weight, "temperature": temperature} if teacher else None,
        "history": [dataclasses.asdict(epoch) for epoch in history],
        **score_row(score),
        "environment": describe_environment(device),
        "out": str(out / "network.safetensors"),
    }
    with replacing(out / "history.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")

    def tables() -> None:
        print_history(history)
        print(f"{score_text(score)}; wrote {out / 'network.safetensors'}")

    show(result, as_json, tables)
