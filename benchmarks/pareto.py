"""Accuracy against measured time for a trained CIFAR-10 network made faster in several ways, as CSV and as a plot.

    python benchmarks/pareto.py resnet56 --weights resnet56.th --data npz:cifar10.npz --epochs 0 5 \\
        --out benchmarks/results/pareto_resnet56.csv --plot docs/pareto_resnet56.png

Each row: one method at one of five sizes, made without labels, trained for so many epochs with labels and the original
as teacher, and timed against the original in OpenVINO, both deployed. Torch-Pruning's criterion is the one that keeps
most on images held out of train, at half of the multiply-adds; the row names it. Rows that are there already are not
made again; the plot has all of them.
"""

import argparse
import copy
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from keep import SHAPE, STEM, TUNE, top1
from matplotlib.figure import Figure
from rivals import CRITERIA, pruned
from rows import read_rows, write_rows
from scipy.stats import binomtest
from torch import Tensor, nn

from ghostify import InputError, compare, convert, count, create_model, deploy, plan
from ghostify.allocator import keep_freed_memory
from ghostify.data import load_data
from ghostify.data.sample import draw_inputs
from ghostify.jobs.train import Teacher, train
from ghostify.measure.environment import describe_environment
from ghostify.models.weights import load_weights_
from ghostify.transform.refine import refine_whole_

SHARES = (0.8, 0.65, 0.5, 0.35, 0.2)  # of the multiply-adds
TEST_IMAGES = 10_000


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--epochs", type=int, nargs="+", default=[0, 5])
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--measurements", type=Path, help="file for what plans measure")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()

    original = load_weights_(create_model(arguments.network), arguments.weights).eval()
    data = load_data(arguments.data, hold_out=0.1)
    images = draw_inputs(data, arguments.images, arguments.seed)
    rows = read_rows(arguments.out)
    done = {(row["method"], row["asked"], row["epochs"], row["seed"]) for row in rows}
    for method in arguments.methods:
        for share in arguments.shares:
            wanted = [e for e in arguments.epochs if (method, f"{share:g}", str(e), str(arguments.seed)) not in done]
            if not wanted:
                continue
            started = time.perf_counter()
            torch.manual_seed(arguments.seed)
            context = {"data": data, "seed": arguments.seed, "measurements": arguments.measurements}
            try:
                model, remark = METHODS[method](original, images, share, context)
            except InputError as error:
                print(f"{method} at {share:g}: {error}", file=sys.stderr)
                continue
            made = time.perf_counter() - started
            example = images[0][:1]
            both = [deploy(network, example, engine="openvino") for network in (original, model)]
            timed = compare(both[0], both[1], example, engine="openvino", threads=arguments.threads)
            start = copy.deepcopy(model)
            for epochs in sorted(wanted):
                model = copy.deepcopy(start)
                if epochs:
                    recipe = replace(TUNE, epochs=epochs, seed=arguments.seed)
                    train(model, data, recipe, teacher=Teacher(original))
                row = {
                    "network": arguments.network,
                    "method": method,
                    "asked": f"{share:g}",
                    "epochs": epochs,
                    "seed": arguments.seed,
                    "macs_ratio": f"{count(model, SHAPE).macs / count(original, SHAPE).macs:.4f}",
                    "time_ratio": f"{timed.ratio:.4f}",
                    "time_ratio_low": f"{timed.ratio_low:.4f}",
                    "time_ratio_high": f"{timed.ratio_high:.4f}",
                    "val_top1": f"{top1(model, data, 'cpu', held_out=True):.4f}",
                    "test_top1": f"{top1(model, data, 'cpu', held_out=False):.4f}",
                    "remark": remark,
                    "seconds_to_make": f"{made:.0f}",
                    "engine_threads": arguments.threads,
                    **describe_environment(),
                    "command": "python " + shlex.join(sys.argv),
                }
                rows.append(row)
                write_rows(arguments.out, rows)
                print(f"{method} at {share:g}, {epochs} epochs: {row['val_top1']} held out", file=sys.stderr)
    if arguments.plot:
        plot(rows, arguments.plot)


def planned(original: nn.Module, images: list[Tensor], share: float, context: dict[str, Any]) -> tuple[nn.Module, str]:
    """Options of least harm at a share of the multiply-adds."""
    found = plan(
        original,
        example=images[0][:1],
        calibration=images,
        target_macs=share,
        skip=[STEM],
        measurements=context["measurements"],
    )
    return convert(original, calibration=images, plan=found, seed=context["seed"]).model, f"harm {found.harm:.4f}"


def mixed(original: nn.Module, images: list[Tensor], share: float, context: dict[str, Any]) -> tuple[nn.Module, str]:
    """The same share of each layer's maps dropped, kept and combined."""
    options = {"cheap": "pointwise", "drop_inner": True, "skip": [STEM], "seed": context["seed"]}
    return convert(original, calibration=images, ratio=1 / share, **options).model, ""


def published(
    original: nn.Module, images: list[Tensor], share: float, context: dict[str, Any]
) -> tuple[nn.Module, str]:
    """The paper's ghosts; ratios are whole, so that few shares are possible."""
    ratio = round(1 / share)
    if ratio < 2 or abs(1 / ratio - share) > 0.08:
        raise InputError("no whole ratio is near")
    return convert(original, calibration=images, ratio=ratio, skip=[STEM], seed=context["seed"]).model, f"s={ratio}"


def torch_pruning(
    original: nn.Module, images: list[Tensor], share: float, context: dict[str, Any]
) -> tuple[nn.Module, str]:
    """By the criterion that keeps most."""
    macs = count(original, SHAPE).macs

    def kept(criterion: str) -> float:
        return top1(pruned(original, images, SHAPE, macs // 2, criterion), context["data"], "cpu", held_out=True)

    if "criterion" not in context:
        context["criterion"] = max(CRITERIA, key=kept)
    return pruned(original, images, SHAPE, int(share * macs), context["criterion"]), context["criterion"]


def refined(original: nn.Module, images: list[Tensor], share: float, context: dict[str, Any]) -> tuple[nn.Module, str]:
    """Torch-Pruning, then our refinement of the whole: twice the passes, as there is none of blocks."""
    model, criterion = torch_pruning(original, images, share, context)
    generator = torch.Generator().manual_seed(context["seed"])
    ends = same_ends(original, model, images[0][:2])
    refine_whole_(model, original, dict.fromkeys(ends), images, generator, passes=12)
    return model.eval(), criterion


def same_ends(original: nn.Module, model: nn.Module, example: Tensor) -> list[str]:
    """Names of the residual blocks that give as many maps as before."""
    names = [name for name, module in original.named_modules() if name.count(".") == 1 and name.startswith("layer")]
    shapes = []
    for network in (original, model):
        found: dict[str, torch.Size] = {}
        hooks = [
            network.get_submodule(name).register_forward_hook(
                lambda module, args, output, name=name, found=found: found.update({name: output.shape})
            )
            for name in names
        ]
        with torch.no_grad():
            network.eval()(example)
        for hook in hooks:
            hook.remove()
        shapes.append(found)
    return [name for name in names if shapes[0][name] == shapes[1][name]]


Method = Callable[[nn.Module, list[Tensor], float, dict[str, Any]], tuple[nn.Module, str]]
METHODS: dict[str, Method] = {
    "planned": planned,
    "mixed": mixed,
    "depthwise": published,
    "Torch-Pruning": torch_pruning,
    "Torch-Pruning, refined": refined,
}


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Top-1 on the test images against time, one line per method, one panel per number of epochs."""
    numbers = sorted({int(row["epochs"]) for row in rows})
    figure = Figure(figsize=(5 * len(numbers), 4), layout="constrained")
    for axes, epochs in zip(figure.subplots(1, len(numbers), squeeze=False)[0], numbers, strict=True):
        for method in METHODS:
            own = [row for row in rows if row["method"] == method and int(row["epochs"]) == epochs]
            own.sort(key=lambda row: float(row["time_ratio"]))
            if not own:
                continue
            x, y = ([float(row[key]) for row in own] for key in ("time_ratio", "test_top1"))
            wide = [(float(row["time_ratio_low"]), float(row["time_ratio_high"])) for row in own]
            right = [binomtest(round(v * TEST_IMAGES), TEST_IMAGES).proportion_ci(method="wilson") for v in y]
            tall = [(interval.low, interval.high) for interval in right]
            axes.errorbar(
                x, [100 * v for v in y], xerr=around(x, wide), yerr=around(y, tall, 100), label=method, marker="."
            )
        axes.set(
            xlabel="time over the original's, OpenVINO",
            ylabel="top-1 on test images, %",
            title=f"{epochs} epochs with labels" if epochs else "no labels",
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def around(values: list[float], intervals: list[tuple[float, float]], scale: float = 1) -> list[list[float]]:
    """How far the ends of intervals are below and above."""
    both = list(zip(values, intervals, strict=True))
    return [[scale * (v - low) for v, (low, _) in both], [scale * (high - v) for v, (_, high) in both]]


if __name__ == "__main__":
    main()
