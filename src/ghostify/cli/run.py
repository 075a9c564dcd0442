"""`ghostify run`: a network, its ghost and its rival, trained and measured."""

import os
from pathlib import Path
from typing import Any

import click

from ghostify.cli.opening import Channels, images_for, open_for
from ghostify.cli.options import (
    calibration_options,
    cheap_option,
    ghost_options,
    json_option,
    take_recipe,
    training_options,
)
from ghostify.cli.output import interval, print_table, progress_bars, show
from ghostify.errors import InputError


@click.command()
@click.option("--model", default="vgg16_cifar", show_default=True, help="MODEL, see `ghostify --help`.")
@training_options("digits", epochs=6, batch_size=64, lr=0.05)
@ghost_options(2, 3)
@cheap_option("pointwise")
@calibration_options("fast")
@click.option("--ghost-epochs", type=click.IntRange(1), help="Of the ghost; default: half of the others'.")
@click.option("--out", type=Path, default=Path("ghostify-run"), show_default=True, help="Folder for all results.")
@json_option
def run(
    model: str,
    data_name: str,
    ratio: int,
    cheap_kernel_size: int,
    cheap: Any,
    images: int,
    effort: Any,
    ghost_epochs: int | None,
    hold_out: float,
    out: Path,
    resume: bool,
    image_size: int | None,
    mean: Channels,
    std: Channels,
    device: str,
    workers: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a network, make its ghost, train its narrower rival; measure all three; write a report."""
    from ghostify.jobs import run as job  # here: drawing, templates and pruning are an extra that other verbs spare

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("run measures, and is for one process: use train under torchrun")
    recipe = take_recipe(options)
    data = images_for(model, data_name, image_size, mean, std, hold_out)
    with progress_bars() as progress:
        proof = job.run(
            lambda: open_for(data, model, dict(options)),
            data,
            recipe,
            out,
            setting={"model": model, "data": data_name},
            ratio=ratio,
            cheap_kernel_size=cheap_kernel_size,
            cheap=cheap,
            images=images,
            effort=effort,
            ghost_epochs=ghost_epochs,
            device=device,
            workers=workers,
            resume=resume,
            progress=progress,
        )
    metrics = proof.metrics()

    def tables() -> None:
        headings = ("network", "top-1, %", "params", "MACs", "speed-up:\nin theory", "measured", "peak\nmemory")
        print_table(headings, [run_row(name, row) for name, row in metrics["networks"].items()])
        for finding in proof.findings():
            print(f"- {finding}")
        print(f"Wrote {out / job.REPORT}, {out / job.METRICS} and the networks beside them.")

    show(metrics, as_json, tables)


def run_row(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    top1 = interval(100 * row["top1"], 100 * row["top1_low"], 100 * row["top1_high"], 1)
    speedup = row["measured_speedup"]
    measured = (
        interval(speedup, row["measured_speedup_low"], row["measured_speedup_high"], 2) if row["latency"] else "1.00"
    )
    memory = f"{row['peak_memory_mb']:.1f} MB" if row["peak_memory_mb"] is not None else "–"
    macs, params = f"{row['macs'] / 1e6:.1f} M", f"{row['params'] / 1e6:.2f} M"
    return name, top1, params, macs, f"{row['theoretical_speedup']:.2f}", measured, memory
