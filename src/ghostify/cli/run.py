"""`ghostify run`: a network, its ghost and its rival, trained and measured."""

import os
from pathlib import Path
from typing import Any

import click

from ghostify.cli.beforehand import open_before, refuse_missing
from ghostify.cli.opening import NamedImages, NamedNetwork
from ghostify.cli.options import (
    bundle,
    calibration_options,
    data_options,
    ghost_options,
    json_option,
    new_head_option,
    out_option,
    recipe_options,
    resume_option,
    source_options,
)
from ghostify.cli.output import interval, kept, print_table, progress_bars, say, show
from ghostify.errors import InputError
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.run_settings import METRICS, REPORT, RESULTS, GhostSettings, RunSettings, refuse_finished


@click.command()
@bundle(
    "named",
    NamedNetwork,
    click.option("--model", default="vgg16_cifar", help="MODEL to train, see `ghostify --help`."),
    source_options,
    new_head_option,
)
@data_options("digits", hold_out=0.1)
@bundle("recipe", Recipe, recipe_options(epochs=6, batch_size=64, lr=0.05))
@bundle(
    "ghost",
    GhostSettings,
    ghost_options(GhostSettings.cheap),
    calibration_options("fast"),
    click.option(
        "--ghost-epochs",
        type=click.IntRange(1),
        show_default="half of --epochs",
        help="Epochs with labels that the ghost is trained for.",
    ),
)
@out_option("Folder for all results.", *RESULTS, default=Path("ghostify-run"))
@resume_option
@json_option
def run(
    named: NamedNetwork,
    images: NamedImages,
    recipe: Recipe,
    ghost: GhostSettings,
    out: Path,
    resume: bool,
    as_json: bool,
) -> None:
    """Train a network, make its ghost, train its narrower rival; measure all three; write a report."""
    refuse_missing("matplotlib", "jinja2")
    from ghostify.jobs import run as job  # here: drawing, templates and pruning are an extra that other verbs spare

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("run measures, and is for one process: use train under torchrun")
    refuse_finished(out, resume)
    open_before(named)
    data = images.open(named)
    named.refuse_other_classes(data.name, data.classes)
    with kept("go on with --resume"), progress_bars() as progress:
        proof = job.run(
            lambda: named.open_for(data),
            data,
            RunSettings(recipe, ghost, images.device, images.workers, resume=resume),
            out,
            about={"model": named.model, "data": data.name},
            progress=progress,
        )
    metrics = proof.metrics()

    def tables() -> None:
        headings = (
            "network",
            "top-1, %",
            "parameters,\nM",
            "MACs,\nM",
            "times as fast\nin theory",
            "measured",
            "peak,\nMB",
        )
        print_table(headings, [run_row(name, row) for name, row in metrics["networks"].items()])
        for finding in proof.findings():
            say(f"- {finding}", "  ")
        say(f"Wrote {out / REPORT}, {out / METRICS} and the networks beside them.")

    show(metrics, as_json, tables)


def run_row(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    top1 = interval(100 * row["top1"], 100 * row["top1_low"], 100 * row["top1_high"], 1)
    speedup = row["measured_speedup"]
    measured = (
        interval(speedup, row["measured_speedup_low"], row["measured_speedup_high"], 2) if row["latency"] else "1.00"
    )
    memory = f"{row['peak_memory_mb']:.1f}" if row["peak_memory_mb"] is not None else "–"
    macs, params = f"{row['macs'] / 1e6:.1f}", f"{row['params'] / 1e6:.2f}"
    return name, top1, params, macs, f"{row['theoretical_speedup']:.2f}", measured, memory
