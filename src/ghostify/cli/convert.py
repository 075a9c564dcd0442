"""`ghostify convert`: a network's convolutions become ghosts."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from ghostify.atomic import replacing
from ghostify.cli.calibration import check_sources, open_photographs, photographs_option
from ghostify.cli.opening import NamedImages, NamedNetwork
from ghostify.cli.options import (
    Calibration,
    GhostOptions,
    bundle,
    calibration_options,
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
from ghostify.cli.output import CHANNELS, percent, print_history, print_table, progress_bars, show
from ghostify.data import ImageData
from ghostify.data.coco import draw_images, load_coco
from ghostify.data.sample import draw_inputs
from ghostify.errors import InputError
from ghostify.jobs.evaluate import check_fit
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import Teacher, train
from ghostify.measure.count import Count, count
from ghostify.network_file import save
from ghostify.plain_part import PARTS, is_detector
from ghostify.planning import convert as convert_network
from ghostify.planning.made_for import refuse_other_network
from ghostify.planning.plan_file import read_plan
from ghostify.transform.convert import Conversion, ConvertedLayer


@dataclass(frozen=True)
class Changes(GhostOptions):
    """The changes of a network's convolutions, see ``convert``."""

    skip: tuple[str, ...]
    parts: tuple[str, ...]
    plan_file: Path | None


@dataclass(frozen=True)
class Finetuning:
    """The epochs with labels that follow, the original as teacher.

    Args:
        finetune: How many; 0 for none.
        optimizer, lr, batch_size, freeze_norm: See ``Recipe``.
        hints: See ``Teacher``.
    """

    finetune: int
    optimizer: str
    lr: float
    batch_size: int
    freeze_norm: bool
    hints: bool

    def recipe(self, seed: int) -> Recipe | None:
        if not self.finetune:
            return None
        return Recipe(
            epochs=self.finetune,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            lr=self.lr,
            warmup_epochs=0.5,
            freeze_norm=self.freeze_norm,
            seed=seed,
        )


@click.command()
@bundle("named", NamedNetwork, click.argument("model"), source_options, classes_option(), shape_option)
@data_options(required=False)
@bundle("calibration", Calibration, calibration_options("refined"), photographs_option)
@bundle(
    "changes",
    Changes,
    ghost_options(None),
    skip_option,
    click.option(
        "--part",
        "parts",
        multiple=True,
        type=click.Choice(PARTS),
        show_default="backbone",
        help="Convert this part of a detector. May be repeated.",
    ),
    click.option(
        "--plan",
        "plan_file",
        type=Path,
        help="Follow a plan.json of `ghostify plan`, instead of --ratio, --cheap and --skip.",
    ),
)
@bundle(
    "finetuning",
    Finetuning,
    click.option(
        "--finetune",
        type=click.IntRange(0),
        default=0,
        help="Epochs with labels after the conversion, the original as teacher.",
    ),
    recipe_options("optimizer", "lr", "batch_size", "freeze_norm", only_with="--finetune", lr=0.01),
    hints_option,
)
@click.option("--out", type=Path, required=True, help="Folder for ghost.safetensors and layers.json.")
@seed_option("new filters and drawn images")
@json_option
def convert(
    named: NamedNetwork,
    images: NamedImages,
    calibration: Calibration,
    changes: Changes,
    finetuning: Finetuning,
    out: Path,
    seed: int,
    as_json: bool,
) -> None:
    """Replace the convolutions of MODEL by cheaper ones.

    With --data or --calibration the layers of a trained network are fitted one after the other to give what they gave,
    without labels: as --plan says, as ghosts of one --ratio, or by default as a plan for half of the multiply-adds;
    with --data --finetune then trains with labels, a tenth of the images held out to watch it. Without images they
    become the paper's ghosts, which must be trained. A detector's --data is coco:DIR, and `ghostify detect train` goes
    on with its ghost.
    """
    recipe = finetuning.recipe(seed)
    refuse_without_images(images, calibration, changes, finetuning)
    plan = None if changes.plan_file is None else read_plan(changes.plan_file)
    torch.manual_seed(seed)
    network = named.open().to(images.device)
    refuse_other_network(plan, network)
    inputs = find_inputs(named, network, images, calibration, recipe, seed)
    with progress_bars() as progress:
        conversion = convert_network(
            network,
            ratio=changes.ratio,
            cheap_kernel_size=changes.cheap_kernel_size,
            cheap=changes.cheap,
            skip=changes.skip,
            input_shape=inputs.shape,
            calibration=inputs.calibration,
            effort=calibration.effort,
            plan=plan,
            parts=changes.parts or ("backbone",),
            seed=seed,
            progress=progress,
        )
    before, after = count(network, inputs.shape), count(conversion.model, inputs.shape)
    file = out / "ghost.safetensors"
    save(conversion.model, file, extra=inputs.extra)
    layers = [dataclasses.asdict(layer) for layer in conversion.layers]
    with replacing(out / "layers.json") as temporary:
        temporary.write_text(json.dumps(layers, indent=2) + "\n")
    history = []
    if recipe and inputs.data:
        with progress_bars() as progress:
            history = train(
                conversion.model,
                inputs.data,
                recipe,
                teacher=Teacher(network, hints=finetuning.hints),
                options=RunOptions(images.device, images.workers),
                progress=progress,
            )
        save(conversion.model, file, extra=inputs.extra)
    result = {
        "model": named.model,
        "out": str(file),
        "replaced": conversion.replaced,
        "macs_before": before.macs,
        "macs_after": after.macs,
        "params_before": before.params,
        "params_after": after.params,
        "layers": layers,
        "finetune": [dataclasses.asdict(epoch) for epoch in history],
    }

    def tables() -> None:
        print_conversion(conversion, calibrated=bool(inputs.calibration))
        if history:
            print_history(history)
        print(f"{in_all(conversion, before, after)}; wrote {file}")

    show(result, as_json, tables)


def refuse_without_images(
    images: NamedImages, calibration: Calibration, changes: Changes, finetuning: Finetuning
) -> None:
    if finetuning.hints and not finetuning.finetune:
        raise InputError("--hints are for the epochs with labels: say how many with --finetune")
    if finetuning.finetune and images.data_name is None:
        raise InputError("--finetune needs images with classes to learn from: name them with --data")
    check_sources(images, calibration.photographs, needed_by="--plan" if changes.plan_file is not None else "")


@dataclass(frozen=True)
class Inputs:
    """The images that a conversion uses.

    Args:
        shape: One input of the network, without batch.
        extra: How images become inputs, to be kept beside the ghost.
        calibration: Batches, or a detector's lists of images; None without images.
        data: Labelled images for a network that classifies, some held out where the ghost is trained.
    """

    shape: tuple[int, ...]
    extra: dict[str, Any]
    calibration: Any = None
    data: ImageData | None = None


def find_inputs(
    named: NamedNetwork,
    network: nn.Module,
    images: NamedImages,
    calibration: Calibration,
    recipe: Recipe | None,
    seed: int,
) -> Inputs:
    image_count = calibration.image_count
    if recipe and is_detector(network):
        raise InputError("--finetune is for classification: train a detector's ghost with `ghostify detect train`")
    if calibration.photographs is not None:
        found = open_photographs(calibration.photographs, named, network, images, image_count, seed)
        shape = named.shape(network) if is_detector(network) else tuple(found.batches[0].shape[1:])
        return Inputs(named.input_shape or shape, found.extra, found.batches)
    if is_detector(network):
        drawn = None
        if images.data_name is not None:
            drawn = draw_images(load_coco(images.data_name).train, image_count, seed, device=images.device)
        return Inputs(named.shape(network), named.extra, drawn)
    if images.data_name is None:
        own_shape = {"input_shape": list(named.input_shape)} if named.input_shape else {}
        return Inputs(named.shape(network), named.extra | own_shape)
    data = dataclasses.replace(images, hold_out=0.1 if recipe else 0.0).open(named)
    if recipe:
        check_fit(network, data)
        named.refuse_other_classes(data.name, data.classes)
    batches = [batch.to(images.device) for batch in draw_inputs(data, image_count, seed, workers=images.workers)]
    extra = {**data.preprocessing, **named.extra, "mean": data.mean, "std": data.std, "image_size": data.image_size}
    return Inputs(named.input_shape or tuple(batches[0].shape[1:]), extra, batches, data)


def print_conversion(conversion: Conversion, *, calibrated: bool) -> None:
    headings = ("convolution or block", "now", *CHANNELS, "MACs before", "after")
    errors = ("ghosts\nexplained, %", "error at block's\noutput, %")
    rows = [layer_row(layer) for layer in conversion.layers]
    print_table(
        headings + errors if calibrated else headings, [row[: None if calibrated else len(headings)] for row in rows], 2
    )


def in_all(conversion: Conversion, before: Count, after: Count) -> str:
    """The whole conversion, in words."""
    return (
        f"{conversion.replaced} of {len(conversion.layers)} convolutions are changed; MACs {before.macs / 1e6:.1f} M → "
        f"{after.macs / 1e6:.1f} M, parameters {before.params / 1e6:.2f} M → {after.params / 1e6:.2f} M"
    )


def layer_row(layer: ConvertedLayer) -> tuple[str, ...]:
    now = f"left: {layer.reason}" if layer.reason else layer.change
    numbers = (layer.kept, layer.ghosted, layer.dropped, layer.inputs, layer.macs_before, layer.macs_after)
    return (
        layer.name,
        now,
        *("–" if number is None else f"{number:,}" for number in numbers),
        percent(layer.explained),
        percent(layer.block_error),
    )
