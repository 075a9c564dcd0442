"""`ghostify plan`: what is to become of each convolution, for a wanted speed or cost."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from ghostify.cli.opening import Channels, images_for, open_given, refuse_other_classes
from ghostify.cli.options import (
    classes_option,
    data_options,
    effort_option,
    json_option,
    seed_option,
    skip_option,
    source_options,
)
from ghostify.cli.output import percent, print_table, progress_bars, show
from ghostify.data.sample import draw_inputs
from ghostify.errors import InputError
from ghostify.inference.engines import FILE_ENGINES
from ghostify.jobs.accuracy import Trial, plan_for_accuracy
from ghostify.jobs.evaluate import check_fit
from ghostify.planning import plan as plan_network
from ghostify.planning.plan_file import Plan, write_plan


@click.command()
@click.argument("model")
@click.option("--target-speedup", type=float, help="How many times as fast, measured here.")
@click.option("--target-macs", type=float, help="Or: the share of the multiply-adds that may be left.")
@click.option(
    "--max-accuracy-drop",
    type=float,
    help="Or: points of top-1 that the fastest may lose, without training; by labels.",
)
@effort_option("fast", "With --max-accuracy-drop: of the conversions that are tried.")
@click.option("--engine", type=click.Choice(FILE_ENGINES), default="openvino", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Of what is timed.")
@data_options()
@click.option(
    "--images", type=click.IntRange(1), default=256, show_default=True, help="Training images to compare options on."
)
@source_options
@classes_option
@skip_option
@click.option(
    "--round-to", type=click.IntRange(1), help="Kept maps are a multiple of it; default: 4 for a speed, else 1."
)
@click.option(
    "--whole-blocks/--no-whole-blocks",
    default=None,
    help="Whether residual blocks may become ghosts as a whole; default: for a speed.",
)
@click.option(
    "--merging/--no-merging",
    default=None,
    help="Whether convolutions may take combinations of their inputs; default: for multiply-adds.",
)
@click.option("--out", type=Path, required=True, help="Folder for plan.json, and for what is measured on the way.")
@seed_option("Of drawn images and trial networks.")
@json_option
def plan(
    model: str,
    target_speedup: float | None,
    target_macs: float | None,
    max_accuracy_drop: float | None,
    effort: Any,
    engine: str,
    batch_size: int,
    data_name: str,
    images: int,
    image_size: int | None,
    mean: Channels,
    std: Channels,
    device: str,
    workers: int,
    skip: tuple[str, ...],
    round_to: int | None,
    whole_blocks: bool | None,
    merging: bool | None,
    out: Path,
    seed: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Choose which maps of MODEL to keep, ghost, drop and merge, so that it reaches a speed at the least harm.

    For `ghostify convert --plan`. Nothing is trained, and no labels are needed. Called again with the same --out,
    it goes on with what was measured there.
    """
    targets = (target_speedup, target_macs, max_accuracy_drop)
    if sum(target is not None for target in targets) != 1:
        raise InputError("expected one of --target-speedup, --target-macs and --max-accuracy-drop")
    torch.manual_seed(seed)
    network = open_given(model, options).to(device).eval()
    hold_out = 0.0 if max_accuracy_drop is None else 0.1
    data = images_for(model, data_name, image_size, mean, std, hold_out)
    calibration = [batch.to(device) for batch in draw_inputs(data, images, seed, workers=workers)]
    trials: tuple[Trial, ...] = ()
    with progress_bars() as progress:
        planned = partial(
            plan_network,
            network,
            example=calibration[0][:1].repeat(batch_size, 1, 1, 1),
            calibration=calibration,
            engine=engine,
            threads=torch.get_num_threads(),
            skip=skip,
            round_to=round_to,
            whole_blocks=whole_blocks,
            merging=merging,
            measurements=out / "measurements.jsonl",
            seed=seed,
            progress=progress,
        )
        if max_accuracy_drop is None:
            found = planned(target_speedup=target_speedup, target_macs=target_macs)
        else:
            check_fit(network, data)
            refuse_other_classes(model, data_name, data.classes)
            found, trials = plan_for_accuracy(
                network,
                data,
                calibration,
                lambda speedup: planned(target_speedup=speedup),
                max_drop=max_accuracy_drop,
                effort=effort,
                device=device,
                seed=seed,
                progress=progress,
            )
    write_plan(found, out / "plan.json")
    result = {
        "model": model,
        "target": dict([found.target]),
        "reachable": found.limit,
        "macs": found.macs,
        "speedup": found.speedup,
        "harm": found.harm,
        "curve": [dataclasses.asdict(point) for point in found.curve],
        "layers": {name: dataclasses.asdict(layer) for name, layer in found.items()},
        "made_on": dict(found.made_on),
        "trials": [dataclasses.asdict(trial) for trial in trials],
    }
    show(result, as_json, lambda: print_plan(found, trials, out))


def print_plan(found: Plan, trials: Sequence[Trial], out: Path) -> None:
    rows = [
        (name, *map(str, (la.kept, la.ghosted, la.dropped, la.merged or "")), la.cheap or "")
        for name, la in found.items()
    ]
    print_table(("convolution or block", "kept", "ghosted", "dropped", "inputs\nmerged to", "ghosts"), rows)
    print()
    kind, target = found.target
    print_table(
        ("multiply-adds", "times as fast, predicted", "harm"),
        [
            (f"{p.macs:.3f}", "–" if p.speedup is None else f"{p.speedup:.2f}", f"{p.harm:.4f}")
            for p in reversed(found.curve)
        ],
        left=0,
    )
    for trial in trials:
        verdict = "good" if trial.good else "too little"
        print(
            f"Tried {trial.speedup:.2f} times as fast: top-1 {percent(trial.top1)} % of the held-out images, {verdict}."
        )
    reach = f"at least {found.limit:.3f} of the multiply-adds" if kind == "macs" else f"{found.limit:.2f} times as fast"
    print(f"Reachable: {reach}.")
    if found.speedup:
        speed, low, high = found.speedup
        print(
            f"Planned: {speed:.2f} ({low:.2f}–{high:.2f}) times as fast in {found.made_on['engine']}, measured, "
            f"for {target:g}; {found.macs:.3f} of the multiply-adds, harm {found.harm:.4f}."
        )
    else:
        print(f"Planned: {found.macs:.3f} of the multiply-adds, for {target:g}; harm {found.harm:.4f}.")
    print(f"{out / 'plan.json'}: to be edited, and for `ghostify convert --plan`.")
