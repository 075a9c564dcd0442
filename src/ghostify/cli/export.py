"""`ghostify export`: a network as a file for other engines, checked."""

import dataclasses
from pathlib import Path
from typing import Any

import click
import torch

from ghostify.cli.opening import Channels, extra_of, images_for, open_for, open_given, own_shape
from ghostify.cli.options import classes_option, data_options, ghost_options, json_option, shape_option, source_options
from ghostify.cli.output import percent, progress_bars, show
from ghostify.data.coco import draw_images, load_coco
from ghostify.data.sample import draw
from ghostify.errors import InputError
from ghostify.inference.export import ENGINE, FORMATS, SUFFIX, ExportReport
from ghostify.inference.export import export as export_network
from ghostify.inference.forms import choose_forms as measured_forms
from ghostify.jobs.evaluate import check_fit
from ghostify.plain_part import is_detector, what_it_takes
from ghostify.transform.detector import plain_inputs


@click.command()
@click.argument("model")
@click.option("--format", "kind", type=click.Choice(FORMATS), default="onnx", show_default=True)
@data_options(required=False)
@click.option(
    "--images", type=click.IntRange(1), default=1000, show_default=True, help="Test images to check the file with."
)
@source_options
@classes_option
@ghost_options()
@shape_option
@click.option(
    "--choose-forms", is_flag=True, help="First measure on this machine which form of each ghost layer is fastest."
)
@click.option(
    "--out", type=Path, required=True, help="Folder for network.onnx, or network.xml and .bin, and network.json."
)
@json_option
def export(
    model: str,
    kind: Any,
    data_name: str | None,
    images: int,
    image_size: int | None,
    mean: Channels,
    std: Channels,
    device: str,
    workers: int,
    input_shape: tuple[int, ...] | None,
    choose_forms: bool,
    out: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Write MODEL, deployed, for ONNX Runtime or OpenVINO, and see that the file gives what it gives.

    With --data the file is checked on test images, and its accuracy stands beside the network's;
    network.json says how images become inputs. Of a detector the file holds backbone, pyramid and head.
    The file is for the CPU and checked there; --device is where the network computes what it is checked against.
    """
    extra = extra_of(model)
    check: Any = None
    if data_name is None or data_name.startswith("coco:"):
        network = open_given(model, options)
        shape = input_shape or own_shape(model, network)
        if is_detector(network):
            extra = {**extra, **what_it_takes(network)}
        elif data_name is not None:
            raise InputError(f"{model} finds no objects: expected images with a class, such as --data imagefolder:DIR")
        if data_name is not None:
            check = plain_inputs(network, draw_images(load_coco(data_name).test, images, batch_size=1))
            shape = tuple(check[0].shape[1:])
    else:
        data = images_for(model, data_name, image_size, mean, std)
        network = open_for(data, model, options)
        check_fit(network, data)
        shape = input_shape or (3, data.image_size, data.image_size)
        extra = {**data.preprocessing, **extra, "mean": data.mean, "std": data.std, "image_size": data.image_size}
        check = draw(data.test, data, images, workers=workers)
    forms = None
    if choose_forms:
        with progress_bars() as progress:
            forms, _ = measured_forms(
                network.eval(),
                torch.randn(1, *shape),
                engine=ENGINE[kind],
                threads=torch.get_num_threads(),
                progress=progress,
            )
    report = export_network(
        network.eval().to(device),
        out / f"network{SUFFIX[kind]}",
        torch.zeros(1, *shape, device=device) if check else torch.randn(1, *shape, device=device),
        format=kind,
        check=check,
        preprocessing=extra,
        forms=forms,
    )
    show(dataclasses.asdict(report) | {"path": str(report.path)}, as_json, lambda: print(sentences(report)))


def sentences(report: ExportReport) -> str:
    """What was written and what the check found."""
    found = f"wrote {report.path}: in {report.engine} outputs differ by {report.difference:.1e} of the largest"
    if report.agreement is not None:
        found += f", the first answer is the same for {percent(report.agreement)} % of {report.images} images"
    if report.top1_before is not None:
        found += f"; top-1 {percent(report.top1_before)} % before, {percent(report.top1_after)} % after"
    joined = [ghost for ghost in report.ghosts if ghost.form == "joined"]
    if joined:
        found += f"\n{len(joined)} of {len(report.ghosts)} ghost layers stay joined:"
        found += "".join(f"\n  {ghost.name}: {ghost.reason}" for ghost in joined)
    return found
