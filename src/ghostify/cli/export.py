"""`ghostify export`: a network as a file for other engines, checked."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from ghostify.cli.beforehand import open_both
from ghostify.cli.calibration import check_sources, open_photographs, photographs_option
from ghostify.cli.opening import NamedImages, NamedNetwork
from ghostify.cli.options import (
    Number,
    builder_options,
    bundle,
    classes_option,
    data_options,
    out_option,
    shape_option,
    source_options,
)
from ghostify.cli.output import json_option, percent, print_table, progress_bars, say, show, size
from ghostify.data import ImageData
from ghostify.data.coco import draw_images, load_coco
from ghostify.data.folder import find_photographs
from ghostify.data.sample import draw, draw_inputs
from ghostify.errors import InputError
from ghostify.fitting.calibration import FEWEST_IMAGES
from ghostify.inference.deploy import Form
from ghostify.inference.engines import Precision
from ghostify.inference.export import ENGINE, FORMATS, SUFFIX, ExportReport
from ghostify.inference.export import export as export_network
from ghostify.inference.forms import choose_forms as measured_forms
from ghostify.inference.in_int8 import Int8Report
from ghostify.inference.quantize import MOST, Int8
from ghostify.jobs.evaluate import Score, check_fit
from ghostify.needed import refuse_engine
from ghostify.plain_part import is_detector, what_it_takes
from ghostify.transform.detector import plain_inputs

HELD_OUT, JUDGES = 0.1, 1000  # share of the training images, of which so many judge an accuracy drop


@dataclass(frozen=True)
class EightBits:
    """The user's wish for int8.

    Args:
        wanted: The file is quantised.
        photographs: Folder of photographs that give the ranges; None: training images.
        max_accuracy_drop: Points of top-1 that may be lost; None: any.
    """

    wanted: bool
    photographs: Path | None
    max_accuracy_drop: float | None

    @property
    def precision(self) -> Precision:
        return "int8" if self.wanted else "fp32"

    def refuse_idle(self, images: NamedImages) -> None:
        """Refuse quantisation without images, and its options without it."""
        if not self.wanted:
            if self.photographs is not None:
                raise InputError(
                    "--calibration has the images that --int8 takes ranges from: expected --int8 beside it"
                )
            if self.max_accuracy_drop is not None:
                raise InputError("--max-accuracy-drop is what --int8 may lose: expected --int8 beside it")
            return
        if self.photographs is None:
            check_sources(images, None, needed_by="--int8")
        else:
            find_photographs(self.photographs)

    def of(self, named: NamedNetwork, images: NamedImages, found: "Exported") -> Int8 | None:
        """The images for it."""
        if not self.wanted:
            return None
        judges = None
        if self.photographs is not None:
            batches = open_photographs(self.photographs, named, found.network, images, MOST, seed=0).batches
        elif found.data is None:
            batches = draw_images(load_coco(str(images.data_name)).train, MOST, batch_size=1)
        else:
            batches = draw_inputs(found.data, MOST, workers=images.workers)
        if found.data is not None and self.max_accuracy_drop is not None:
            held_out = dataclasses.replace(images, hold_out=HELD_OUT).open(named)
            assert held_out.val is not None
            judges = draw(held_out.val, held_out, JUDGES, workers=images.workers)
            if self.photographs is None:  # ranges and judgement from other images
                batches = draw_inputs(held_out, MOST, workers=images.workers)
        if is_detector(found.network):
            batches = plain_inputs(found.network, batches)
        return Int8(batches, self.max_accuracy_drop, judges)


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
@bundle(
    "eight",
    EightBits,
    click.option(
        "--int8",
        "wanted",
        is_flag=True,
        help=f"Quantise to int8, with ranges from {MOST} training images of --data, or photographs of --calibration.",
    ),
    photographs_option,
    click.option(
        "--max-accuracy-drop",
        type=Number(0, 100, max_open=True),
        help="With --int8, leave layers in float32 until no more points of top-1 are lost, by held-out images.",
    ),
)
@out_option(
    "Folder for network.onnx, or network.xml and .bin, and network.json; with --int8 network.int8.onnx and so on.",
    *(f"network{int8}{suffix}" for int8 in ("", ".int8") for suffix in (*SUFFIX.values(), ".bin", ".json")),
)
@json_option
def export(
    named: NamedNetwork,
    kind: Any,
    images: NamedImages,
    image_count: int,
    choose_forms: bool,
    eight: EightBits,
    out: Path,
    as_json: bool,
) -> None:
    """Write MODEL, deployed, for ONNX Runtime or OpenVINO, and check that the file gives the same outputs.

    With --data the file is checked on test images, and its accuracy stands beside the network's;
    network.json says how images become inputs. Of a detector the file holds backbone, pyramid and head.
    The file is for the CPU and checked there; --device is where the network computes what it is checked against.
    With --int8 the file is network.int8.onnx or .xml, and its accuracy, size and latency stand beside those that
    it had in float32, which is not kept.
    """
    refuse_engine(ENGINE[kind], eight.precision)
    eight.refuse_idle(images)
    with_boxes = images.data_name is None or images.data_name.startswith("coco:")
    found = (checked_by_boxes if with_boxes else checked_by_classes)(named, images, image_count)
    network, shape = found.network.eval(), found.shape
    report = export_network(
        network.to(images.device),
        out / f"network{'.int8' if eight.wanted else ''}{SUFFIX[kind]}",
        (torch.zeros if found.check else torch.randn)(1, *shape, device=images.device),
        format=kind,
        check=found.check,
        preprocessing=found.extra,
        forms=fastest_forms(network, shape, ENGINE[kind], eight.precision) if choose_forms else None,
        int8=eight.of(named, images, found),
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
        data: Images with classes, where they check it.
    """

    network: nn.Module
    shape: tuple[int, ...]
    extra: dict[str, Any]
    check: Any
    data: ImageData | None = None


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
    return Exported(network, shape, extra, draw(data.test, data, image_count, workers=images.workers), data)


def fastest_forms(network: nn.Module, shape: tuple[int, ...], engine: str, precision: Precision) -> dict[str, Form]:
    with progress_bars() as progress:
        forms, _ = measured_forms(
            network,
            torch.randn(1, *shape),
            engine=engine,
            threads=torch.get_num_threads(),
            precision=precision,
            progress=progress,
        )
    return forms


def print_report(report: ExportReport) -> None:
    """The file that was written and the result of its check, in words."""
    taken = f"any batch of {size(report.input_shape)}"
    apart = f"in {report.engine} outputs differ by {report.difference:.1e} of the largest"
    if report.rounding is not None:
        apart += f" (rounding alone does {report.rounding:.1e} to this network)"
    if report.int8 is None:
        if report.agreement is not None:
            apart += f", the first answer is the same for {percent(report.agreement)} % of {report.images} images"
        if report.top1_before is not None:
            apart += f"; top-1 {percent(report.top1_before)} % before, {percent(report.top1_after)} % after"
        say(f"wrote {report.path} for {taken}: {apart}")
    else:
        say(f"wrote {report.path}, in int8, for {taken}; before it was quantised, {apart}")
        print_int8(report, report.int8)
    joined = [ghost for ghost in report.ghosts if ghost.form == "joined"]
    if joined:
        say(f"{len(joined)} of {len(report.ghosts)} ghost layers stay joined:")
        for ghost in joined:
            say(f"  {ghost.name}: {ghost.reason}", "    ")


def with_interval(top1: float | None, images: int) -> str:
    """A share of right answers in per cent, and its 95 % Wilson interval."""
    if top1 is None:
        return "–"
    low, high = Score(((images, round(top1 * images), 0),)).interval
    return f"{percent(top1)} ({percent(low)}–{percent(high)})"


def print_int8(report: ExportReport, int8: Int8Report) -> None:
    """Print the cost and the gain of int8, as a table and in words."""
    latency = int8.latency
    columns = ("file", "top-1, %", "same\nanswers, %", "MB", "ms", "times as fast")
    speed = [f"{1 / ratio:.2f}" for ratio in (latency.ratio, latency.ratio_high, latency.ratio_low)]
    rows = [
        (
            "float32",
            with_interval(report.top1_after, report.images),
            percent(report.agreement),
            f"{int8.size_mb[0]:.2f}",
            f"{latency.a_ms:.3f}",
            "1.00",
        ),
        (
            "int8",
            with_interval(int8.top1, report.images),
            percent(int8.agreement),
            f"{int8.size_mb[1]:.2f}",
            f"{latency.b_ms:.3f}",
            "{} ({}–{})".format(*speed),
        ),
    ]
    print_table(columns, rows)
    threads = "1 thread" if latency.threads == 1 else f"{latency.threads} threads"
    say(
        f"{report.images} images checked, {int8.images} gave the ranges; one image at a time in {report.engine} with "
        f"{threads}; the outputs' mean squared difference is {int8.output_error:.1e} of their variance."
    )
    if int8.in_fp32:
        say(f"{len(int8.in_fp32)} of {int8.layers} layers are in float32: {', '.join(int8.in_fp32)}.")
    if int8.judges:
        left = "no layer went" if not int8.in_fp32 else f"{len(int8.in_fp32)} layers went"
        say(
            f"{int8.judges} images judged what may be lost: {100 * (int8.judged_loss or 0):.2f} "
            f"points of top-1 are; {left} back to float32."
        )
    if int8.images < FEWEST_IMAGES:
        say(f"Ranges from {int8.images} images may be too narrow: better some hundreds.")
    if int8.overflow_fix:
        say("This processor has no VNNI: weights use half of their range, so that no sum overflows.")
    if latency.ratio_low > 1:
        say(f"int8 is slower here than float32 in {report.engine}: use the other file.")
    if int8.lost:
        say(f"{int8.lost}.")
