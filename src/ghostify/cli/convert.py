"""`ghostify convert`: a network's convolutions become ghosts."""

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from ghostify.atomic import replacing
from ghostify.changes.ratio import GhostRatio
from ghostify.cli.beforehand import refuse_unsavable
from ghostify.cli.calibration import check_sources, open_photographs, photographs_option
from ghostify.cli.opening import NamedImages, NamedNetwork
from ghostify.cli.options import (
    Calibration,
    ExistingFile,
    GhostOptions,
    Sectioned,
    bundle,
    calibration_options,
    classes_option,
    data_options,
    ghost_options,
    hints_option,
    layers_option,
    out_option,
    recipe_options,
    seed_option,
    shape_option,
    skip_option,
    source_options,
)
from ghostify.cli.output import (
    CHANNELS,
    Printing,
    channels,
    json_option,
    kept,
    percent,
    print_history,
    print_table,
    progress_bars,
    say,
    show,
)
from ghostify.data import ImageData
from ghostify.data.coco import draw_images, load_coco
from ghostify.data.sample import draw_inputs
from ghostify.errors import InputError, spelled
from ghostify.jobs.evaluate import check_fit
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import Teacher, train
from ghostify.measure.count import Count, count
from ghostify.models.registry import known_origin
from ghostify.network_file import save
from ghostify.plain_part import PARTS, is_detector
from ghostify.planning import convert as convert_network
from ghostify.planning.made_for import refuse_other_network
from ghostify.planning.plan_file import read_plan
from ghostify.planning.zoo import plan_path
from ghostify.transform.changeable import commonest_reasons, may_be_fitted, reasons_to_leave
from ghostify.transform.convert import Conversion

GHOST, LAYERS = "ghost.safetensors", "layers.json"


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


class PlanFile(ExistingFile):
    """The file of a plan, or one of the zoo."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return super().convert(plan_path(value), param, ctx)


@click.command(cls=Sectioned)
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
        type=PlanFile(),
        help="Follow a plan.json of `ghostify plan`, or one that comes with ghostify, such as zoo:mobilenet_v2-1.5x, "
        "instead of --ratio, --cheap and --skip.",
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
@out_option("Folder for ghost.safetensors and layers.json.", GHOST, LAYERS)
@seed_option("new filters and drawn images")
@bundle("printing", Printing, layers_option, json_option)
def convert(
    named: NamedNetwork,
    images: NamedImages,
    calibration: Calibration,
    changes: Changes,
    finetuning: Finetuning,
    out: Path,
    seed: int,
    printing: Printing,
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
    refuse_unchangeable(named, network, changes)
    refuse_unsavable(network)
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
    if not conversion.replaced:
        raise InputError(nothing_to_change(named, [layer.reason for layer in conversion.layers]))
    before, after = count(network, inputs.shape), count(conversion.model, inputs.shape)
    file = out / GHOST
    save(conversion.model, file, extra=inputs.extra)
    layers = [dataclasses.asdict(layer) for layer in conversion.layers]
    with replacing(out / LAYERS) as temporary:
        temporary.write_text(json.dumps(layers, indent=2) + "\n")
    history = []
    if recipe and inputs.data:
        with kept(f"the ghost as it was before its epochs, {file}"), progress_bars() as progress:
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
        print_conversion(conversion, calibrated=bool(inputs.calibration), all_layers=printing.all_layers)
        if history:
            print_history(history)
        say(f"{in_all(conversion, before, after)}; wrote {file}.")
        if inputs.calibration is None:
            say(how_to_train(network, file))

    show(result, printing.as_json, tables)


def refuse_unchangeable(named: NamedNetwork, network: nn.Module, changes: Changes) -> None:
    """Refuse, before images are read, a network none of whose convolutions may change; and what it has no use for."""
    if changes.parts and not is_detector(network):
        raise InputError(f"--part is for a detector, and {named.model} finds no objects: leave it out")
    reasons = reasons_to_leave(network, GhostRatio(), changes.skip)
    if not any(map(may_be_fitted, reasons.values())):
        raise InputError(nothing_to_change(named, reasons.values()))


def nothing_to_change(named: NamedNetwork, reasons: Collection[str]) -> str:
    if not reasons:
        return f"nothing to convert: {named.model} has no convolution"
    return (
        f"nothing to convert: none of the {len(reasons)} convolutions of {named.model} can change: "
        f"{commonest_reasons(reasons)}"
    )


def how_to_train(network: nn.Module, file: Path) -> str:
    """The way on with a ghost whose filters are new, in words."""
    verb = "detect train" if is_detector(network) else "train"
    origin = known_origin(network)
    of_the_users = origin is not None and ":" in origin.name and not origin.name.startswith(("torchvision:", "timm:"))
    own = f" --factory {origin.name}" if origin is not None and of_the_users else ""
    return (
        "Its cheap filters are new and know nothing yet, so that it must be trained: "
        f"`ghostify {verb} {file}{own} --data DATA --out DIR`. "
        "What a trained network knows is kept where it is converted with images, --data."
    )


def refuse_without_images(
    images: NamedImages, calibration: Calibration, changes: Changes, finetuning: Finetuning
) -> None:
    if finetuning.hints and not finetuning.finetune:
        raise InputError("--hints are for the epochs with labels: say how many with --finetune")
    settings = {name: getattr(changes, name) for name in ("ratio", "cheap", "cheap_kernel_size", "skip", "parts")}
    idle = [spelled(name) for name, value in settings.items() if value not in (None, ())]
    if changes.plan_file is not None and idle:
        raise InputError(f"--plan says itself what becomes of which layer: leave out {', '.join(idle)}")
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


def print_conversion(conversion: Conversion, *, calibrated: bool, all_layers: bool) -> None:
    headings = ["convolution or block", "now", "MACs, M:\nbefore", "after"]
    headings += ["block's\nerror, %"] if calibrated else []
    headings += [*CHANNELS, "ghosts\nex-\nplained,\n%"] if all_layers else []
    rows = []
    for layer in conversion.layers:
        row = [layer.name, layer.change, millions(layer.macs_before), millions(layer.macs_after)]
        row += [percent(layer.block_error)] if calibrated else []
        row += [*channels(layer), percent(layer.explained)] if all_layers else []
        if layer.replaced:
            rows.append(row)
    print_table(headings, rows, left=2)
    left = [layer for layer in conversion.layers if not layer.replaced]
    if left and all_layers:
        print()
        print_table(("left as it is", "because"), [(layer.name, layer.reason) for layer in left], left=2)
    elif left:
        say(f"Left as they are: {commonest_reasons(layer.reason for layer in left)}.")


def in_all(conversion: Conversion, before: Count, after: Count) -> str:
    """The whole conversion, in words."""
    return (
        f"{conversion.replaced} of {len(conversion.layers)} convolutions are changed; MACs {before.macs / 1e6:.1f} M → "
        f"{after.macs / 1e6:.1f} M, parameters {before.params / 1e6:.2f} M → {after.params / 1e6:.2f} M"
    )


def millions(macs: int | None) -> str:
    return "–" if macs is None else f"{macs / 1e6:,.2f}"
