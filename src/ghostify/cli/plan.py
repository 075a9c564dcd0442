"""`ghostify plan`: which change each convolution gets, for a speed or a cost."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from ghostify.changes import LayerPlan
from ghostify.cli.calibration import check_sources, open_photographs, photographs_option
from ghostify.cli.opening import NamedImages, NamedNetwork
from ghostify.cli.options import (
    Number,
    Timing,
    batch_size_option,
    bundle,
    classes_option,
    data_options,
    effort_option,
    engine_option,
    enough_images,
    layers_option,
    numbers,
    out_option,
    seed_option,
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
    print_table,
    progress_bars,
    say,
    show,
)
from ghostify.data.coco import draw_images, load_coco
from ghostify.data.images import ImageData
from ghostify.data.sample import draw_inputs
from ghostify.errors import InputError
from ghostify.inference.engines import ENGINES
from ghostify.jobs.accuracy import AllowedDrop, Trial, plan_for_accuracy
from ghostify.jobs.evaluate import check_fit, evaluate
from ghostify.needed import refuse_engine
from ghostify.plain_part import is_detector
from ghostify.planning import plan as plan_network
from ghostify.planning.plan_file import Plan, what_can_be_dropped, write_plan
from ghostify.transform.changeable import refuse_idle_patterns
from ghostify.transform.reconstruct import Effort

PLAN, MEASUREMENTS = "plan.json", "measurements.jsonl"


@dataclass(frozen=True)
class Target:
    """The one target that a plan has.

    Args:
        target_speedup: Times as fast.
        target_macs: Share of the multiply-adds.
        max_accuracy_drop: Points of top-1.
        effort: Effort of the conversions that are tried for an accuracy drop.
    """

    target_speedup: float | None
    target_macs: float | None
    max_accuracy_drop: float | None
    effort: Effort

    def __post_init__(self) -> None:
        targets = (self.target_speedup, self.target_macs, self.max_accuracy_drop)
        if sum(target is not None for target in targets) != 1:
            raise InputError("expected one of --target-speedup, --target-macs and --max-accuracy-drop")


@dataclass(frozen=True)
class Choice:
    """Which changes a plan chooses from.

    Args:
        image_count: Images to measure each change on.
        photographs: Folder of photographs without classes, which they are; None: training images.
        skip, round_to, whole_blocks, merging, output_weights: See ``plan``.
    """

    image_count: int
    photographs: Path | None
    skip: tuple[str, ...]
    round_to: int | None
    whole_blocks: bool | None
    merging: bool | None
    output_weights: tuple[float, ...] | None


@dataclass(frozen=True)
class PlannedTiming(Timing):
    """How the planned network is to run.

    Args:
        int8, bf16: See ``plan``.
    """

    int8: bool = False
    bf16: bool = False

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that are asked for."""
        return tuple(name for name in ("int8", "bf16") if getattr(self, name))


@click.command()
@bundle("named", NamedNetwork, click.argument("model"), source_options, classes_option())
@bundle(
    "target",
    Target,
    click.option(
        "--target-speedup",
        type=Number(1, min_open=True),
        help="Reach this speed, measured here: 1.5 is one and a half times as fast.",
    ),
    click.option(
        "--target-macs",
        type=Number(0, 1, min_open=True, max_open=True),
        help="Or leave this share of the multiply-adds, such as 0.6.",
    ),
    click.option(
        "--max-accuracy-drop",
        type=Number(0, 100, max_open=True),
        help="Or find the fastest plan that loses at most so many points of top-1 without training, such as 1. "
        "Labelled images that are held out judge it.",
    ),
    effort_option("fast", "With --max-accuracy-drop, the effort of `ghostify convert` for the plans that are tried."),
)
@bundle(
    "timing",
    PlannedTiming,
    engine_option(ENGINES, "openvino"),
    batch_size_option(1, "Images of the batch that is timed."),
    click.option("--int8", is_flag=True, help="Plan for the times in int8, as `ghostify export --int8` writes a file."),
    click.option("--bf16", is_flag=True, help="Plan for the times in bf16, where the engine computes in it."),
)
@data_options(required=False)
@bundle(
    "choice",
    Choice,
    click.option(
        "--images",
        "image_count",
        type=int,
        callback=enough_images,
        default=256,
        help="Images on which the output error of each change is measured.",
    ),
    photographs_option,
    skip_option,
    click.option(
        "--round-to",
        type=click.IntRange(1),
        show_default="4 for a speed, else 1",
        help="Keep a multiple of this many channels.",
    ),
    click.option(
        "--whole-blocks/--no-whole-blocks",
        default=None,
        show_default="for a speed",
        help="Allow residual blocks to change as a whole, such as to one convolution.",
    ),
    click.option(
        "--merging/--no-merging",
        default=None,
        show_default="for multiply-adds",
        help="Allow convolutions to take few combinations of their inputs (low-rank).",
    ),
    click.option(
        "--output-weights",
        callback=numbers,
        help="Weight of each output's error, such as 1,0.5 for a RetinaNet's logits and boxes; all alike by default.",
    ),
)
@out_option("Folder for plan.json, and for what is measured on the way.", PLAN, MEASUREMENTS)
@seed_option("drawn images and trial networks")
@bundle("printing", Printing, layers_option, json_option)
def plan(
    named: NamedNetwork,
    target: Target,
    timing: PlannedTiming,
    images: NamedImages,
    choice: Choice,
    out: Path,
    seed: int,
    printing: Printing,
) -> None:
    """Choose which channels of MODEL to keep, ghost, prune and merge, so that a target is met with least output error.

    For `ghostify convert --plan`. Nothing is trained, and no labels are needed but for --max-accuracy-drop. Called
    again with the same --out, it goes on with what was measured there.
    """
    by_accuracy = target.max_accuracy_drop is not None
    if by_accuracy and images.data_name is None:
        raise InputError("--max-accuracy-drop needs images with classes that judge it: name them with --data")
    check_sources(images, choice.photographs, needed_by="a plan")
    if target.target_macs is None:
        refuse_engine(timing.engine, *timing.precisions)
    torch.manual_seed(seed)
    network = named.open().to(images.device).eval()
    if by_accuracy and is_detector(network):
        raise InputError(f"--max-accuracy-drop is about top-1, and {named.model} finds objects: say a speed")
    refuse_idle_patterns(choice.skip, [name for name, _ in network.named_modules(remove_duplicate=False)])
    data, calibration = None, list[Any]()
    if choice.photographs is not None:
        calibration = open_photographs(choice.photographs, named, network, images, choice.image_count, seed).batches
    elif is_detector(network):
        coco = load_coco(str(images.data_name))
        calibration = list(draw_images(coco.train, choice.image_count, seed, device=images.device))
    else:
        data = dataclasses.replace(images, hold_out=0.1 if by_accuracy else 0.0).open(named)
        if by_accuracy:
            check_fit(network, data)
            named.refuse_other_classes(data.name, data.classes)
        batches = draw_inputs(data, choice.image_count, seed, workers=images.workers)
        calibration = [batch.to(images.device) for batch in batches]
    # A detector's images differ in size: it is timed at the size that it makes them at most.
    detects = is_detector(network)
    example = torch.zeros(1, *named.shape(network), device=images.device) if detects else calibration[0][:1]
    trials: tuple[Trial, ...] = ()
    with kept("the same call goes on with it"), progress_bars() as progress:
        planned = partial(
            plan_network,
            network,
            example=example.repeat(timing.batch_size, 1, 1, 1),
            calibration=calibration,
            engine=timing.engine,
            threads=timing.threads,
            int8=timing.int8,
            bf16=timing.bf16,
            skip=choice.skip,
            round_to=choice.round_to,
            whole_blocks=choice.whole_blocks,
            merging=choice.merging,
            output_weights=choice.output_weights,
            measurements=out / MEASUREMENTS,
            seed=seed,
            progress=progress,
        )
        if target.max_accuracy_drop is None or data is None:
            found = planned(target_speedup=target.target_speedup, target_macs=target.target_macs)
        else:
            found, trials = plan_for_accuracy(
                network,
                partial(held_out_top1, data=data, images=images),
                calibration,
                lambda speedup: planned(target_speedup=speedup),
                AllowedDrop(target.max_accuracy_drop, target.effort, seed),
                progress=progress,
            )
    write_plan(found, out / PLAN)
    result = {
        "model": named.model,
        "target": dict([found.target]),
        "reachable": found.limit,
        "macs": found.macs,
        "speedup": found.speedup,
        "speedup_same_precision": found.speedup_same_precision,
        "output_error": found.output_error,
        "curve": [dataclasses.asdict(point) for point in found.curve],
        "layers": {name: layer.row() for name, layer in found.items()},
        "made_on": dict(found.made_on),
        "unprunable": dict(found.unprunable),
        "trials": [dataclasses.asdict(trial) for trial in trials],
    }
    show(result, printing.as_json, lambda: print_plan(found, trials, out, all_layers=printing.all_layers))


def held_out_top1(network: nn.Module, data: ImageData, images: NamedImages) -> float:
    assert data.val is not None
    return evaluate(network, data.val, data, device=images.device, workers=images.workers).top1


def in_precision(found: Plan) -> str:
    precision = found.made_on.get("precision", "fp32")
    return "" if precision == "fp32" else f" and {precision} as the original in fp32"


def print_plan(found: Plan, trials: Sequence[Trial], out: Path, *, all_layers: bool) -> None:
    rows = [
        (name, layer.words or "kept", *channels(layer.table))
        for name, layer in found.items()
        if layer.words or all_layers
    ]
    print_table(("convolution or block", "becomes", *CHANNELS), rows, left=2)
    if len(rows) < len(found):
        print(f"{len(found) - len(rows)} others are kept as they are.")
    print()
    kind, target = found.target
    print_table(
        ("multiply-adds", "times as fast,\npredicted", "output error"),
        [
            (f"{p.macs:.3f}", "–" if p.speedup is None else f"{p.speedup:.2f}", f"{p.output_error:.4f}")
            for p in reversed(found.curve)
        ],
        left=0,
    )
    for trial in trials:
        verdict = "good" if trial.good else "too few"
        say(
            f"Tried {trial.speedup:.2f} times as fast: "
            f"top-1 {percent(trial.score)} % of the held-out images, {verdict}."
        )
    reach = f"at least {found.limit:.3f} of the multiply-adds" if kind == "macs" else f"{found.limit:.2f} times as fast"
    say(f"Reachable: {reach}.")
    if found.speedup:
        speed, low, high = found.speedup
        say(
            f"Planned: {speed:.2f} times as fast ({low:.2f}–{high:.2f}) in {found.made_on['engine']}"
            f"{in_precision(found)}, "
            f"for a target of {target:g}; {found.macs:.3f} of the multiply-adds, output error {found.output_error:.4f}."
        )
        if found.speedup_same_precision:
            speed, low, high = found.speedup_same_precision
            say(f"Over the original in {found.made_on['precision']}, too: {speed:.2f} times ({low:.2f}–{high:.2f}).")
    else:
        say(
            f"Planned: {found.macs:.3f} of the multiply-adds, "
            f"for a target of {target:g}; output error {found.output_error:.4f}."
        )
    convolutions = sum(isinstance(layer, LayerPlan) for layer in found.values())
    words = what_can_be_dropped(found.unprunable, convolutions)
    say(f"{words[0].upper()}{words[1:]}.")
    say(f"Wrote {out / PLAN}, which may be edited, for `ghostify convert --plan`.")
