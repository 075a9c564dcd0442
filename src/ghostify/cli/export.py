"""`ghostify export`: a network as a file for other engines, checked."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from ghostify.cli.beforehand import open_both, refuse_engine
from ghostify.cli.opening import NamedImages, NamedNetwork
from ghostify.cli.options import (
    builder_options,
    bundle,
    classes_option,
    data_options,
    json_option,
    out_option,
    shape_option,
    source_options,
)
from ghostify.cli.output import percent, progress_bars, say, show, size
from ghostify.data.coco import draw_images, load_coco
from ghostify.data.sample import draw
from ghostify.errors import InputError
from ghostify.inference.deploy import Form
from ghostify.inference.export import ENGINE, FORMATS, SUFFIX, ExportReport
from ghostify.inference.export import export as export_network
from ghostify.inference.forms import choose_forms as measured_forms
from ghostify.jobs.evaluate import check_fit
from ghostify.plain_part import is_detector, what_it_takes
from ghostify.transform.detector import plain_inputs


@click.command()
@bundle(
    "named",
    NamedNetwork,
    click.argument("model"),
    source_options,
    classes_option("as many as --data has, else the builder's"),
    builder_options,
    shape_option,
)
@click.option("--format", "kind", type=click.Choice(FORMATS), default="onnx", help="Format of the file.")
@data_options(required=False)
@click.option(
    "--images", "image_count", type=click.IntRange(1), default=1000, help="Test images to check the file with."
)
@click.option(
    "--choose-forms", is_flag=True, help="First measure on this machine which form of each ghost layer is fastest."
)
@out_option(
    "Folder for network.onnx, or network.xml and .bin, and network.json.",
    *(f"network{suffix}" for suffix in (*SUFFIX.values(), ".bin", ".json")),
)
@json_option
def export(
    named: NamedNetwork,
    kind: Any,
    images: NamedImages,
    image_count: int,
    choose_forms: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Write MODEL, deployed, for ONNX Runtime or OpenVINO, and check that the file gives the same outputs.

    With --data the file is checked on test images, and its accuracy stands beside the network's;
    network.json says how images become inputs. Of a detector the file holds backbone, pyramid and head.
    The file is for the CPU and checked there; --device is where the network computes what it is checked against.
    """
    refuse_engine(ENGINE[kind])
    with_boxes = images.data_name is None or images.data_name.startswith("coco:")
    found = (checked_by_boxes if with_boxes else checked_by_classes)(named, images, image_count)
    network, shape = found.network.eval(), found.shape
    report = export_network(
        network.to(images.device),
        out / f"network{SUFFIX[kind]}",
        (torch.zeros if found.check else torch.randn)(1, *shape, device=images.device),
        format=kind,
        check=found.check,
        preprocessing=found.extra,
        forms=fastest_forms(network, shape, ENGINE[kind]) if choose_forms else None,
    )
    show(dataclasses.asdict(report) | {"path": str(report.path)}, as_json, lambda: print_report(report))


@dataclass(frozen=True)
class Exported:
    """A network to be exported.

    Args:
        network: The network.
        shape: One input of its file, without batch.
        extra: How images become inputs, for network.json.
        check: Batches to check the file with; None: an input of random numbers.
    """

    network: nn.Module
    shape: tuple[int, ...]
    extra: dict[str, Any]
    check: Any


def checked_by_boxes(named: NamedNetwork, images: NamedImages, image_count: int) -> Exported:
    """Any network without images, or a detector with images that have boxes."""
    network = named.open()
    detector = is_detector(network)
    extra = {**named.extra, **(what_it_takes(network) if detector else {})}
    if images.data_name is None:
        return Exported(network, named.shape(network), extra, None)
    if not detector:
        raise InputError(
            f"{named.model} finds no objects: expected images with a class, such as --data imagefolder:DIR"
        )
    check = plain_inputs(network, draw_images(load_coco(images.data_name).test, image_count, batch_size=1))
    return Exported(network, tuple(check[0].shape[1:]), extra, check)


def checked_by_classes(named: NamedNetwork, images: NamedImages, image_count: int) -> Exported:
    """A network that classifies, with labelled images."""
    network, data = open_both(named, images)
    check_fit(network, data)
    shape = named.input_shape or (3, data.image_size, data.image_size)
    extra = {**data.preprocessing, **named.extra, "mean": data.mean, "std": data.std, "image_size": data.image_size}
    return Exported(network, shape, extra, draw(data.test, data, image_count, workers=images.workers))


def fastest_forms(network: nn.Module, shape: tuple[int, ...], engine: str) -> dict[str, Form]:
    with progress_bars() as progress:
        forms, _ = measured_forms(
            network, torch.randn(1, *shape), engine=engine, threads=torch.get_num_threads(), progress=progress
        )
    return forms


def print_report(report: ExportReport) -> None:
    """The file that was written and the result of its check, in words."""
    taken = f"any batch of {size(report.input_shape)}"
    found = (
        f"wrote {report.path} for {taken}: in {report.engine} outputs differ by {report.difference:.1e} of the largest"
    )
    if report.rounding is not None:
        found += f" (rounding alone does {report.rounding:.1e} to this network)"
    if report.agreement is not None:
        found += f", the first answer is the same for {percent(report.agreement)} % of {report.images} images"
    if report.top1_before is not None:
        found += f"; top-1 {percent(report.top1_before)} % before, {percent(report.top1_after)} % after"
    say(found)
    joined = [ghost for ghost in report.ghosts if ghost.form == "joined"]
    if joined:
        say(f"{len(joined)} of {len(report.ghosts)} ghost layers stay joined:")
        for ghost in joined:
            say(f"  {ghost.name}: {ghost.reason}", "    ")
