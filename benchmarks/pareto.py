"""Accuracy against measured time for a trained CIFAR-10 network made faster in several ways, as CSV.

    python benchmarks/pareto.py resnet56 --weights resnet56.th --data npz:cifar10.npz --made DIR --epochs 0 5 --time \\
        --out benchmarks/results/pareto_resnet56.csv

Each row: one method at one of five sizes (`asked`: a share of the multiply-adds, for `planned for time` of the time;
what cannot be reached is left out), made without labels on the CPU, then trained for so many epochs on `--device`, the
original as teacher: by labels and its answers, or by its logits and its maps at the ends of blocks alone, without
labels (`--learning`; `--hints-lr` is to be chosen by `val_top1`). `--time` measures, on a quiet machine, every network
of `--made` whose rows have no time yet against the original in OpenVINO, both deployed, in three pairs of processes:
the median of the ratios, from the lowest end of their 95 % intervals to the highest; training does not change it.
`--in int8 bf16` scores each network in these precisions, too, as a file in OpenVINO (int8 by NNCF, ranges from 300
of the calibration images), and times it against the original in float32; `planned for int8` are plans for these times.
Torch-Pruning's criterion is the one that keeps most on images held out of train, at half of the multiply-adds; the row
names it. Rows that are there already are not made again. `plots.py` draws them.
"""

import argparse
import copy
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from arithmetic import add_arithmetic, in_arithmetic
from balf import balf
from keep import SHAPE, TUNE, Made, kept, made_once, stem_of, top1
from practise import Steps, practise
from precisions import OTHERS, RATIO, columns_of, in_openvino, measured_ratio
from rivals import CRITERIA, pruned
from rows import read_rows, write_rows
from torch import Tensor, nn

from ghostify import InputError, convert, count, create_model, deploy, load, plan
from ghostify.allocator import keep_freed_memory
from ghostify.data import ImageData, load_data
from ghostify.data.sample import draw_inputs
from ghostify.fitting.refine import Refinement, refine_whole_
from ghostify.inference.engines import Precision
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.train import Teacher, train
from ghostify.measure.environment import describe_environment
from ghostify.models.weights import load_weights_
from ghostify.transform.match import match_ends

SHARES = (0.8, 0.65, 0.5, 0.35, 0.2)  # of the multiply-adds
# How a network learns from the original, and how much of the loss that is: the labels are the rest.
LEARNING = {"answers": (TUNE, 0.9), "hints": (replace(TUNE, optimizer="adamw", lr=1e-3, freeze_norm=True), 1.0)}
# Columns that `--time` fills.
TIME = (*RATIO, "engine_threads", "timed_on", "timed_core_share")
SCORES = ("val_top1", "test_top1")
IN_OTHERS = [column for precision in OTHERS for column in columns_of(precision, (*RATIO, *SCORES))]


def parsed() -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--epochs", type=int, nargs="+", default=[0, 5])
    parser.add_argument("--learning", nargs="+", choices=LEARNING, default=list(LEARNING))
    parser.add_argument("--hints-lr", type=float, default=1e-3, help="peak learning rate by hints")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=1024)
    add_arithmetic(parser)
    parser.add_argument(
        "--made", type=Path, required=True, help="folder that keeps the networks as made, and trainings"
    )
    parser.add_argument("--in", dest="precisions", nargs="*", choices=OTHERS, default=[], help="score in these, too")
    parser.add_argument("--time", action="store_true", help="measure what has no time yet")
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--comparisons", type=int, default=3, help="of each network with the original, for its time")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    keep_freed_memory()
    arguments = parsed()

    original = load_weights_(create_model(arguments.network), arguments.weights).eval()
    data = load_data(arguments.data, hold_out=0.1)
    images = tuple(draw_inputs(data, arguments.images, arguments.seed))
    measured = arguments.made / f"{arguments.network}, measured"
    start = Start(original, images, data, arguments.seed, arguments.threads, measured)
    rows = [{**row, **{column: row.get(column, "") for column in IN_OTHERS}} for row in read_rows(arguments.out)]
    done = {(row["method"], row["asked"], row["epochs"], row["learning"], row["seed"]) for row in rows}
    trainings = [(e, how) for e in sorted(arguments.epochs) for how in (arguments.learning if e else [""])]
    for method in arguments.methods:
        for share in arguments.shares:
            asked, seed = f"{share:g}", arguments.seed
            wanted = [(e, how) for e, how in trainings if (method, asked, str(e), how, str(seed)) not in done]
            if not wanted:
                continue
            torch.manual_seed(seed)
            make = partial(METHODS[method], start, share)
            file = made_file(arguments, method, asked)
            try:
                network, made, remark = made_once(file, make)
            except InputError as error:
                print(f"{method} at {share:g}: {error}", file=sys.stderr)
                continue
            macs_ratio = count(network, SHAPE).macs / count(original, SHAPE).macs
            for epochs, learning in wanted:
                model = copy.deepcopy(network).to(arguments.device)
                if epochs:
                    recipe, weight = LEARNING[learning]
                    if learning == "hints":
                        recipe = replace(recipe, lr=arguments.hints_lr)
                    train(
                        model,
                        data,
                        in_arithmetic(replace(recipe, epochs=epochs, seed=seed), arguments),
                        teacher=Teacher(copy.deepcopy(original), weight=weight, hints=learning == "hints"),
                        options=RunOptions(
                            arguments.device,
                            checkpoint=file.with_suffix(f".{epochs}_epochs_{learning}_{recipe.lr:g}.pt"),
                            resume=True,
                        ),
                    )
                row = {
                    "network": arguments.network,
                    "method": method,
                    "asked": asked,
                    "epochs": epochs,
                    "learning": learning,
                    "seed": seed,
                    "macs_ratio": f"{macs_ratio:.4f}",
                    **dict.fromkeys(TIME, ""),
                    "val_top1": f"{top1(model, data, arguments.device, held_out=True):.4f}",
                    "test_top1": f"{top1(model, data, arguments.device, held_out=False):.4f}",
                    **dict.fromkeys(IN_OTHERS, ""),
                    **{k: v for p in arguments.precisions for k, v in scores_in(p, model, data, images).items()},
                    "remark": remark,
                    "seconds_to_make": f"{made:.0f}",
                    **describe_environment(arguments.device),
                    "command": "python " + shlex.join(sys.argv),
                }
                rows.append(row)
                write_rows(arguments.out, rows)
                print(f"{method} at {share:g}, {epochs} epochs {learning}: {row['val_top1']} held out", file=sys.stderr)
    if arguments.time:
        measure_times(rows, original, images[0][:1], arguments)


def scores_in(precision: Precision, model: nn.Module, data: ImageData, images: Sequence[Tensor]) -> dict[str, str]:
    """Right answers of the network's file in a precision."""
    with in_openvino(model.cpu(), precision, images) as network:
        found = [f"{top1(network, data, 'cpu', held_out=held_out):.4f}" for held_out in (True, False)]
    return dict(zip(columns_of(precision, SCORES), found, strict=True))


def made_file(arguments: argparse.Namespace, method: str, asked: str) -> Path:
    """Where the network of a row is kept: `keep.py` names those that it makes, too, the same."""
    size = "" if asked == "0.5" else f", {asked}"
    return arguments.made / f"{arguments.network}, {method}{size}, draw {arguments.seed}.pt"


def measure_times(
    rows: list[dict[str, Any]], original: nn.Module, example: Tensor, arguments: argparse.Namespace
) -> None:
    """Time each network that has rows without a time against the original, and write that into all its rows."""
    before = deploy(original, example, engine="openvino")
    own = [row for row in rows if str(row["seed"]) == str(arguments.seed)]
    untimed = {
        (row["method"], row["asked"], precision)
        for row in own
        for precision in ("fp32", *arguments.precisions)
        if row[columns_of(precision, SCORES)[1]] and not row[columns_of(precision, RATIO)[0]]
    }
    for method, asked, precision in sorted(untimed):
        after = deploy(load(made_file(arguments, method, asked)), example, engine="openvino")
        conditions = {"threads": arguments.threads, "comparisons": arguments.comparisons}
        told: dict[str, Any] = {**measured_ratio(before, after, example, precision, **conditions)}
        environment = describe_environment()
        told |= {"engine_threads": arguments.threads, "timed_on": environment["processor"]}
        told |= {"timed_core_share": environment["core_share"]}
        for row in own:
            if (row["method"], row["asked"]) == (method, asked):
                row.update(told)
        write_rows(arguments.out, rows)
        print(f"{method} at {asked}, {precision}: {told}", file=sys.stderr)


@dataclass(frozen=True)
class Start:
    """What every method starts from."""

    original: nn.Module
    images: Sequence[Tensor]
    data: ImageData
    seed: int
    threads: int
    measured: Path  # beginning of the names of what plans measure

    @property
    def macs(self) -> int:
        return count(self.original, SHAPE).macs


def for_macs(start: Start, share: float, *, merging: bool) -> nn.Module:
    """The plan of least output error at a share of the multiply-adds."""
    return planned(start, "multiply-adds", merging, target_macs=share)[0]


def for_time(start: Start, share: float, *, merging: bool, int8: bool = False) -> Made:
    """The plan of least output error at a share of the time, in int8 of that in float32."""
    model, limit = planned(start, "time", merging, target_speedup=1 / share, threads=start.threads, int8=int8)
    return model, f"at most {limit:.2f} times as fast can be reached"


def planned(start: Start, what: str, merging: bool, **target: Any) -> tuple[nn.Module, float]:
    """The network by a plan, and what the plan says can be reached; what was measured serves all sizes."""
    what = f"{what}, merging" if merging else what
    found = plan(
        start.original,
        example=start.images[0][:1],
        calibration=start.images,
        skip=[stem_of(start.original)],
        merging=merging,
        measurements=start.measured.with_name(f"{start.measured.name} {what} {start.seed}.jsonl"),
        **target,
    )
    return convert(start.original, calibration=start.images, plan=found, seed=start.seed).model, found.limit


def unchanged(start: Start, share: float) -> nn.Module:
    """The original, to be quantised alone."""
    if share != 1:
        raise InputError("the original has one size")
    return start.original


def published(start: Start, share: float) -> Made:
    """The paper's ghosts; ratios are whole, so that few shares are possible."""
    ratio = round(1 / share)
    if ratio < 2 or abs(1 / ratio - share) > 0.08:
        raise InputError("no whole ratio is near")
    return kept(ratio=ratio)(start.original, start.images, start.seed), f"s={ratio}"


def torch_pruning(start: Start, share: float) -> Made:
    """By the criterion that keeps most."""
    criterion = best_criterion(start)
    return pruned(start.original, start.images, SHAPE, int(share * start.macs), criterion), criterion


@cache
def best_criterion(start: Start) -> str:
    """Torch-Pruning's criterion that keeps most at half of the multiply-adds, on images held out of train."""

    def knows(criterion: str) -> float:
        half = pruned(start.original, start.images, SHAPE, start.macs // 2, criterion)
        return top1(half, start.data, "cpu", held_out=True)

    return max(CRITERIA, key=knows)


def refined(start: Start, share: float) -> Made:
    """Torch-Pruning, then our refinement of the whole: twice the passes, as there is none of blocks."""
    model, criterion = torch_pruning(start, share)
    ends = match_ends(start.original, model, start.images)
    generator = torch.Generator().manual_seed(start.seed)
    refine_whole_(model, start.original, ends, start.images, generator, how=Refinement(3e-4, 12))
    return model.eval(), criterion


def low_rank(start: Start, share: float) -> nn.Module:
    """BALF, in closed form as its authors have it."""
    return balf(start.original, start.images, int(share * start.macs))


def blocks_dropped(start: Start, share: float) -> Made:
    """PRACTISE, in fewer steps than its authors take on a GPU."""
    steps = Steps(adaptors=50, whole=500, batch_size=64)
    scores = start.measured.with_name(f"{start.measured.name} for PRACTISE {start.seed}.json")
    how = {"steps": steps, "seed": start.seed, "scores": scores}
    return practise(start.original, start.images, int(share * start.macs), **how), f"{steps}"


METHODS: dict[str, Callable[[Start, float], nn.Module | Made]] = {
    "original": unchanged,
    "planned for int8": partial(for_time, merging=False, int8=True),
    "planned for time, merging": partial(for_time, merging=True),
    "planned for time": partial(for_time, merging=False),
    "planned, merging": partial(for_macs, merging=True),
    "planned": partial(for_macs, merging=False),
    "depthwise": published,
    "Torch-Pruning": torch_pruning,
    "Torch-Pruning, refined": refined,
    "BALF": low_rank,
    "PRACTISE": blocks_dropped,
}


if __name__ == "__main__":
    main()
