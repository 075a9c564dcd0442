"""`ghostify convert`: a network's convolutions become ghosts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
import torch

from ghostify.atomic import replacing
from ghostify.cli.opening import Channels, extra_of, images_for, open_given, own_shape, refuse_other_classes
from ghostify.cli.options import (
    calibration_options,
    cheap_option,
    classes_option,
    data_options,
    ghost_options,
    hints_option,
    json_option,
    recipe_options,
    seed_option,
    shape_option,
    skip_option,
    source_options,
)
from ghostify.cli.output import percent, print_history, print_table, progress_bars, show
from ghostify.data import ImageData
from ghostify.data.coco import draw_images, load_coco
from ghostify.data.sample import draw_inputs
from ghostify.errors import InputError
from ghostify.jobs.evaluate import check_fit
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import Teacher, train
from ghostify.measure.count import count
from ghostify.network_file import save
from ghostify.plain_part import PARTS, is_detector
from ghostify.planning.plan_file import read_plan
from ghostify.transform import convert as convert_network
from ghostify.transform.convert import ConvertedLayer


@click.command()
@click.argument("model")
@data_options(required=False)
@calibration_options("refined")
@click.option(
    "--drop-inner", is_flag=True, help="Drop maps that only following layers take, too; for pointwise ghosts."
)
@click.option("--round-to", type=click.IntRange(1), default=1, show_default=True, help="With --drop-inner: 16 is fast.")
@click.option("--finetune", type=click.IntRange(0), default=0, help="Epochs with labels, the original as teacher.")
@recipe_options("optimizer", "lr", "batch_size", "freeze_norm", lr=0.01)  # of these epochs
@hints_option
@source_options
@classes_option
@ghost_options(2, 3, float)
@cheap_option("depthwise")
@skip_option
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Of a detector; default: backbone.")
@click.option("--plan", "plan_file", type=Path, help="A file of `ghostify plan`, instead of --ratio and --skip.")
@shape_option
@click.option("--out", type=Path, required=True, help="Folder for ghost.safetensors and layers.json.")
@seed_option("Of new filters and drawn images.")
@json_option
def convert(
    model: str,
    data_name: str | None,
    images: int,
    effort: Any,
    drop_inner: bool,
    round_to: int,
    finetune: int,
    optimizer: str,
    lr: float,
    batch_size: int,
    freeze_norm: bool,
    hints: bool,
    image_size: int | None,
    mean: Channels,
    std: Channels,
    device: str,
    workers: int,
    ratio: float,
    cheap_kernel_size: int,
    cheap: Any,
    skip: tuple[str, ...],
    parts: tuple[str, ...],
    plan_file: Path | None,
    input_shape: tuple[int, ...] | None,
    out: Path,
    seed: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Replace the convolutions of MODEL by ghosts.

    With --data the ghost of a trained network keeps what the network knows as well as it can, without
    labels; --finetune then learns with them, a tenth of the images held out to watch it. Without --data
    the result must be trained. A detector's images are coco:DIR, and `ghostify detect train` goes on with its ghost.
    """
    recipe = None
    if finetune:
        recipe = Recipe(
            epochs=finetune,
            batch_size=batch_size,
            optimizer=optimizer,
            lr=lr,
            warmup_epochs=0.5,
            freeze_norm=freeze_norm,
            seed=seed,
        )
    if hints and not recipe:
        raise InputError("--hints are for the epochs with labels: say how many with --finetune")
    if recipe and data_name is None:
        raise InputError("--finetune needs images to learn from: name them with --data")
    if plan_file is not None and data_name is None:
        raise InputError("--plan needs images to calibrate on: name them with --data")
    plan = None if plan_file is None else read_plan(plan_file)
    torch.manual_seed(seed)
    network, extra = open_given(model, options).to(device), extra_of(model)
    data: ImageData | None = None
    calibration: Any = None
    if is_detector(network):
        calibration = detector_images(data_name, images, seed, device, finetune)
    elif data_name is not None:
        data = images_for(model, data_name, image_size, mean, std, hold_out=0.1 if recipe else 0.0)
        if recipe:
            check_fit(network, data)
            refuse_other_classes(model, data_name, data.classes)
        extra = {**data.preprocessing, **extra, "mean": data.mean, "std": data.std, "image_size": data.image_size}
        calibration = [batch.to(device) for batch in draw_inputs(data, images, seed, workers=workers)]
        input_shape = input_shape or tuple(calibration[0].shape[1:])
    shape = input_shape or own_shape(model, network)
    with progress_bars() as progress:
        conversion = convert_network(
            network,
            ratio=int(ratio) if ratio.is_integer() else ratio,
            cheap_kernel_size=cheap_kernel_size,
            cheap=cheap,
            skip=skip,
            input_shape=shape,
            calibration=calibration,
            effort=effort,
            drop_inner=drop_inner,
            round_to=round_to,
            plan=plan,
            parts=parts or ("backbone",),
            seed=seed,
            progress=progress,
        )
    before, after = count(network, shape), count(conversion.model, shape)
    save(conversion.model, out / "ghost.safetensors", extra=extra)
    layers = [dataclasses.asdict(layer) for layer in conversion.layers]
    with replacing(out / "layers.json") as temporary:
        temporary.write_text(json.dumps(layers, indent=2) + "\n")
    history = []
    if recipe and data:
        with progress_bars() as progress:
            history = train(
                conversion.model,
                data,
                recipe,
                teacher=Teacher(network, hints=hints),
                options=RunOptions(device, workers),
                progress=progress,
            )
        save(conversion.model, out / "ghost.safetensors", extra=extra)
    result = {
        "model": model,
        "out": str(out / "ghost.safetensors"),
        "replaced": conversion.replaced,
        "macs_before": before.macs,
        "macs_after": after.macs,
        "params_before": before.params,
        "params_after": after.params,
        "layers": layers,
        "finetune": [dataclasses.asdict(epoch) for epoch in history],
    }

    def tables() -> None:
        rows = [layer_row(layer) for layer in conversion.layers]
        headings = ("convolution", "now", "kept", "ghosted", "dropped", "inputs\nmerged to", "MACs before", "after")
        calibrated = ("ghosts\nexplained, %", "error at block's\noutput, %")
        print_table(
            headings + calibrated if calibration else headings, [row[: None if calibration else 8] for row in rows], 2
        )
        if history:
            print_history(history)
        print(
            f"{conversion.replaced} of {len(rows)} convolutions are changed; MACs {before.macs / 1e6:.1f} M → "
            f"{after.macs / 1e6:.1f} M, parameters {before.params / 1e6:.2f} M → {after.params / 1e6:.2f} M; "
            f"wrote {out / 'ghost.safetensors'}"
        )

    show(result, as_json, tables)


def detector_images(
    data_name: str | None, images: int, seed: int, device: str, finetune: int
) -> list[list[torch.Tensor]] | None:
    """Images to calibrate a detector on; None where no data is named."""
    if finetune:
        raise InputError("--finetune is for classification: train a detector's ghost with `ghostify detect train`")
    return None if data_name is None else draw_images(load_coco(data_name).train, images, seed, device=device)


def layer_row(layer: ConvertedLayer) -> tuple[str, ...]:
    kinds = {"ghost": layer.ghosted, "inputs merged": layer.merged, "narrower": layer.kept, "gone with its block": True}
    changed = next(kind for kind, holds in kinds.items() if holds)
    now = f"left: {layer.reason}" if layer.reason else changed
    numbers = (layer.kept, layer.ghosted, layer.dropped, layer.merged, layer.macs_before, layer.macs_after)
    return (
        layer.name,
        now,
        *("–" if number is None else f"{number:,}" for number in numbers),
        percent(layer.explained),
        percent(layer.block_error),
    )
