"""`ghostify evaluate`: how often a network is right."""

from typing import Any

import click

from ghostify.cli.opening import Channels, normalised_for, open_for
from ghostify.cli.options import data_options, ghost_options, json_option, source_options
from ghostify.cli.output import score_row, score_text, show
from ghostify.data import load_data
from ghostify.jobs.evaluate import evaluate as score_network


@click.command()
@click.argument("model")
@data_options()
@source_options
@ghost_options()
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=250, show_default=True)
@json_option
def evaluate(
    model: str,
    data_name: str,
    mean: Channels,
    std: Channels,
    precision: str,
    batch_size: int,
    image_size: int | None,
    device: str,
    workers: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Score MODEL on the test images of DATA."""
    data = normalised_for(model, load_data(data_name, image_size=image_size), mean, std)
    network = open_for(data, model, options).to(device)
    score = score_network(
        network, data.test, data, device=device, precision=precision, batch_size=batch_size, workers=workers
    )
    result = {"model": model, "data": data_name, "mean": data.mean, "std": data.std, **score_row(score)}
    show(result, as_json, lambda: print(score_text(score)))
