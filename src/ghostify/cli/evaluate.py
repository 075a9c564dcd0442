"""`ghostify evaluate`: how often a network is right."""

import sys
import time
from typing import Any

import click

from ghostify.cli.beforehand import open_both
from ghostify.cli.opening import NamedImages, NamedNetworkOrFile
from ghostify.cli.options import (
    batch_size_option,
    builder_options,
    bundle,
    data_options,
    source_options,
)
from ghostify.cli.output import json_option, percent, print_table, say, score_text, show
from ghostify.errors import InputError
from ghostify.inference.engines import FILE_ENGINES
from ghostify.jobs.evaluate import Score, check_fit
from ghostify.jobs.evaluate import evaluate as score_network
from ghostify.measure.environment import describe_environment
from ghostify.needed import refuse_engine


@click.command()
@bundle(
    "named",
    NamedNetworkOrFile,
    click.argument("model"),
    source_options,
    builder_options,
    click.option(
        "--engine",
        type=click.Choice(FILE_ENGINES),
        show_default="the one that it was made for",
        help="Engine for an exported file.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16"]),
        default="fp32",
        help="Arithmetic; bf16 is by autocast, or by the engine of a file.",
    ),
)
@data_options()
@batch_size_option(250, "Images per forward pass.")
@click.option("--per-class", is_flag=True, help="Print a table of all classes, the least known first.")
@json_option
def evaluate(named: NamedNetworkOrFile, images: NamedImages, batch_size: int, per_class: bool, as_json: bool) -> None:
    """Score MODEL, or an exported file, on the test images of DATA.

    A file gets images prepared as what `ghostify export` wrote beside it says, and runs on the CPU.
    """
    if named.engine is not None and named.exported is None:
        raise InputError(f"{named.model} runs in PyTorch: --engine is for exported files")
    if named.exported is not None:
        refuse_engine(named.exported.engine)
    network, data = open_both(named, images)
    network.to(images.device)
    check_fit(network, data)
    started = time.perf_counter()
    score = score_network(
        network,
        data.test,
        data,
        device=images.device,
        precision=named.precision,
        batch_size=batch_size,
        workers=images.workers,
    )
    if named.exported is not None and not named.exported.about:
        print(
            f"{named.model} has no {named.exported.path.stem}.json beside it: images were normalised as --mean and "
            "--std say, else as is usual for DATA",
            file=sys.stderr,
        )
    per_second = score.images / (time.perf_counter() - started)
    result = {
        "model": named.model,
        "engine": named.exported.engine if named.exported else "eager",
        "precision": named.precision,
        "data": data.name,
        "mean": data.mean,
        "std": data.std,
        **score.numbers(),
        "images_per_second": round(per_second, 2),
        "classes": {
            name: class_row(*counts, classes=len(data.classes))
            for name, counts in zip(data.classes, score.counts, strict=True)
        },
        "environment": describe_environment(images.device),
    }

    def tables() -> None:
        if per_class:
            rows = sorted(result["classes"].items(), key=lambda row: row[1]["top1"])
            shown = slice(None if score.top5 is not None else -1)
            headings = ("class", "images", "top-1, %", "95 % interval", "top-5, %")
            print_table(headings[shown], [class_text(*row)[shown] for row in rows])
        say(f"{score_text(score)}, {per_second:.0f} images a second, reading and decoding included")

    show(result, as_json, tables)


def class_row(images: int, right: int, right_in_5: int, *, classes: int) -> dict[str, Any]:
    """One class's share of right answers; of a class without images 0, from 0 to 1."""
    if not images:
        return {"images": 0, "top1": 0.0, "top1_low": 0.0, "top1_high": 1.0, "top5": 0.0 if classes > 5 else None}
    alone = Score(((images, right, right_in_5),))
    low, high = alone.interval
    top5 = right_in_5 / images if classes > 5 else None
    return {"images": images, "top1": alone.top1, "top1_low": low, "top1_high": high, "top5": top5}


def class_text(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    interval = f"{percent(row['top1_low'])}–{percent(row['top1_high'])}"
    return name, str(row["images"]), percent(row["top1"]), interval, percent(row["top5"])
