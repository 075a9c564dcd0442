"""How often a trained network's smaller copies give its own answers, without labels, as CSV.

    python benchmarks/agree.py torchvision:mobilenet_v2 --weights FILE --mean 0.5 --std 0.5 --images DIR --made DIR \\
        --shares 0.8 0.6 --methods planned pruned --out benchmarks/results/agree_mobilenet_v2.csv

DIR holds a folder of photographs per class. Half of them, drawn by the seed, are for calibration; the other half is
judged: the share of photographs with the same first answer as the original's. Rows that are there already are not
made again. `--in int8` judges each network as a file in OpenVINO's int8, too. `--time` then measures on a quiet machine
what has no time yet: over the original in float32, both deployed. `asked` is a share of the multiply-adds; for the
plans for a time, of the original's time in float32. What plans measure is kept beside the networks in `--made`: an
interrupted plan, or one for another share, goes on from there.
"""

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from balf import balf
from keep import made_once
from practise import Steps, practise
from precisions import OTHERS, RATIO, columns_of, in_openvino, measured_ratio
from rivals import pruned, unfold_norms_
from rows import read_rows, write_rows
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from ghostify import InputError, convert, count, create_model, deploy, load, plan
from ghostify.allocator import keep_freed_memory
from ghostify.changes import Keep, PointwiseGhosts, Sizes
from ghostify.fitting.calibration import held_out
from ghostify.fitting.refine import Refinement, refine_whole_
from ghostify.inference.engines import Precision
from ghostify.measure.environment import describe_environment
from ghostify.models.weights import load_weights_
from ghostify.planning.candidates import Offer, find_candidates
from ghostify.planning.planner import Planner

SIDE = 224
SHAPE = (3, SIDE, SIDE)
JUDGED = ("agreement", "top1")
# Of a pruned network that is refined, and the images of which one judges whether it got better.
RATES, PASSES, JUDGED_EVERY = (3e-4, 3e-3), 6, 8
COLUMNS = [*RATIO, *(name for other in OTHERS for name in columns_of(other, (*JUDGED, *RATIO))), "timed_core_share"]


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--mean", type=float, default=0.5)
    parser.add_argument("--std", type=float, default=0.5)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.8, 0.6], help="of the original's multiply-adds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--calibrate", type=int, default=500, help="photographs, at most half")
    parser.add_argument("--in", dest="precisions", nargs="*", choices=OTHERS, default=[], help="judge in these, too")
    parser.add_argument("--made", type=Path, required=True, help="folder that keeps the networks as made")
    parser.add_argument("--time", action="store_true", help="measure what has no time yet")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    original = load_weights_(create_model(arguments.network), arguments.weights).eval()
    photographs = photographs_in(arguments.images, arguments.mean, arguments.std)
    blank = dict.fromkeys(COLUMNS, "")
    rows = [row | {column: row.get(column, "") for column in blank} for row in read_rows(arguments.out)]
    done = {(row["method"], row["asked"], row["seed"]) for row in rows}
    for seed in arguments.seeds:
        drawn = torch.randperm(len(photographs), generator=torch.Generator().manual_seed(seed)).tolist()
        half = len(drawn) // 2
        images = batches(photographs, drawn[: min(half, arguments.calibrate)])
        judged = batches(photographs, drawn[half:])
        labels = torch.tensor([photographs.targets[i] for i in drawn[half:]])
        unfold_norms_(original, images)
        answers = first_answers(original, judged)
        for method in arguments.methods:
            for share in arguments.shares:
                if (method, f"{share:g}", str(seed)) in done:
                    continue
                torch.manual_seed(seed)
                measured = arguments.made / f"{stem(arguments)}, measured for {method}, draw {seed}.jsonl"
                make = partial(METHODS[method], Start(original, images, seed, measured), share)
                try:
                    model, made, _ = made_once(made_file(arguments, method, f"{share:g}", seed), make)
                except InputError as error:
                    print(f"{method} at {share:g}: {error}", file=sys.stderr)
                    continue
                given = first_answers(model, judged)
                row = {
                    "network": arguments.network,
                    "method": method,
                    "asked": f"{share:g}",
                    "seed": seed,
                    "macs_ratio": f"{cost(model, original):.4f}",
                    "agreement": f"{(given == answers).float().mean():.4f}",
                    "top1": f"{(given == labels).float().mean():.4f}",
                    "top1_original": f"{(answers == labels).float().mean():.4f}",
                    "calibrated_on": sum(map(len, images)),
                    "judged_on": len(labels),
                    "seconds_to_make": f"{made:.0f}",
                    **blank,
                    **{
                        k: v
                        for p in arguments.precisions
                        for k, v in judged_in(p, model, images, judged, answers, labels).items()
                    },
                    **describe_environment(),
                    "command": "python " + shlex.join(sys.argv),
                }
                rows.append(row)
                print(f"{method} at {share:g}: {row['agreement']} agree", file=sys.stderr)
                write_rows(arguments.out, rows)

    if arguments.time:
        measure_times(rows, original, batches(photographs, [0])[0], arguments)


def judged_in(
    precision: Precision, model: nn.Module, images: list[Tensor], judged: list[Tensor], answers: Tensor, labels: Tensor
) -> dict[str, str]:
    """Agreement and right answers of the network's file in a precision."""
    with in_openvino(model, precision, images) as network:
        given = first_answers(network, judged)
    shares = ((given == answers).float().mean(), (given == labels).float().mean())
    return dict(zip(columns_of(precision, JUDGED), (f"{share:.4f}" for share in shares), strict=True))


def made_file(arguments: argparse.Namespace, method: str, asked: str, seed: int) -> Path:
    return arguments.made / f"{stem(arguments)}, {method}, {asked}, draw {seed}.safetensors"


def stem(arguments: argparse.Namespace) -> str:
    """The network's name without the library that it is from."""
    name: str = arguments.network.rpartition(":")[2]
    return name


def measure_times(
    rows: list[dict[str, str]], original: nn.Module, example: Tensor, arguments: argparse.Namespace
) -> None:
    """Time what has none yet against the original."""
    before = deploy(original, example, engine="openvino")
    for row in rows:
        file = made_file(arguments, row["method"], row["asked"], int(row["seed"]))
        if not file.exists():
            continue
        after = deploy(load(file), example, engine="openvino")
        for precision in ("fp32", *arguments.precisions):
            judged, ratio = columns_of(precision, JUDGED)[0], columns_of(precision, RATIO)[0]
            if row[judged] and not row[ratio]:
                row |= measured_ratio(before, after, example, precision, threads=1, comparisons=3)
                row["timed_core_share"] = str(describe_environment()["core_share"])
                write_rows(arguments.out, rows)


def photographs_in(folder: Path, mean: float, std: float) -> ImageFolder:
    """Photographs as a network of 224 pixels takes them, with a folder for each class."""
    to_input = [v2.ToImage(), v2.Resize(SIDE), v2.CenterCrop(SIDE), v2.ToDtype(torch.float32, scale=True)]
    return ImageFolder(folder, v2.Compose([*to_input, v2.Normalize([mean] * 3, [std] * 3)]))


def batches(photographs: ImageFolder, indices: list[int], size: int = 32) -> list[Tensor]:
    return list(torch.stack([photographs[i][0] for i in indices]).split(size))


@torch.no_grad()
def first_answers(model: nn.Module, images: list[Tensor]) -> Tensor:
    model.eval()
    return torch.cat([model(batch).argmax(1) for batch in images])


@dataclass(frozen=True)
class Start:
    """What every method starts from.

    Args:
        images: Batches to calibrate on.
        measured: File of what plans measure.
    """

    original: nn.Module
    images: list[Tensor]
    seed: int
    measured: Path


def planned(start: Start, share: float) -> nn.Module:
    """The plan of least output error."""
    return by_plan(start, target_macs=share)


def planned_for_int8(start: Start, share: float) -> nn.Module:
    """The plan of least output error for a time in int8."""
    return by_plan(start, target_speedup=1 / share, int8=True)


def by_plan(start: Start, **target: Any) -> nn.Module:
    """The network by a plan."""
    example = start.images[0][:1]
    found = plan(start.original, example=example, calibration=start.images, measurements=start.measured, **target)
    return convert(start.original, calibration=start.images, plan=found, seed=start.seed).model


def planned_for_time(start: Start, share: float) -> nn.Module:
    """The plan of least output error for a share of the time."""
    return by_plan(start, target_speedup=1 / share)


def unchanged(start: Start, share: float) -> nn.Module:
    """The original, to be quantised alone."""
    if share != 1:
        raise InputError("the original has one size")
    return start.original


def pruned_to(start: Start, share: float) -> nn.Module:
    """Torch-Pruning by magnitude, BatchNorm statistics estimated anew."""
    return pruned(start.original, start.images, SHAPE, int(share * count(start.original, SHAPE).macs))


def pruned_and_refined(start: Start, share: float) -> nn.Module:
    """The same, which then learns the original's logits: the rate that comes nearest to them."""
    networks = []
    for rate in RATES:
        model = pruned_to(start, share)
        generator = torch.Generator().manual_seed(start.seed)
        learnt, others = held_out(start.images, JUDGED_EVERY)
        refine_whole_(model, start.original, {}, learnt, others, generator, how=Refinement(rate, PASSES))
        networks.append(model)
    return min(networks, key=lambda model: logits_apart(model, start))


@torch.no_grad()
def logits_apart(model: nn.Module, start: Start) -> float:
    """Squared error of the logits on mirrored images."""
    mirrored = (batch.flip(3) for batch in start.images)
    return sum(float((model(x) - start.original(x)).square().sum()) for x in mirrored)


def uniform(start: Start, share: float) -> nn.Module:
    """Pointwise ghosts with the same share of the channels computed in all convolutions that get cheaper so."""
    counted, offer = count(start.original, SHAPE), Offer((Keep, PointwiseGhosts), (), (), Sizes())
    candidates = find_candidates(start.original, start.images[0][:1], counted, offer)
    planner = Planner(candidates, dict, counted.macs, counted.macs)

    def nearest(name: str, computed: float) -> int:
        """The option with so many of the channels computed."""
        candidate = candidates[name]
        off = [abs(option.output.kept / candidate.layer.out_channels - computed) for option in candidate.options]
        return min(range(len(off)), key=off.__getitem__)

    for percent in range(99, 24, -1):
        chosen = {name: nearest(name, percent / 100) for name in candidates}
        if planner.macs_share(chosen) <= share:
            plans = planner.plans(chosen)
            return convert(start.original, calibration=start.images, plan=plans, seed=start.seed).model
    raise InputError("more multiply-adds are left")


def low_rank(start: Start, share: float) -> nn.Module:
    """BALF, in closed form as its authors have it."""
    return balf(start.original, start.images, int(share * count(start.original, SHAPE).macs))


def blocks_dropped(start: Start, share: float) -> nn.Module:
    """PRACTISE, in fewer steps than its authors take on a GPU."""
    macs = int(share * count(start.original, SHAPE).macs)
    steps = Steps(adaptors=20, whole=200, batch_size=32)
    how = {"steps": steps, "seed": start.seed, "scores": start.measured.with_suffix(".json")}
    return practise(start.original, start.images, macs, **how)


def cost(model: nn.Module, original: nn.Module) -> float:
    """Multiply-adds, as a share of the original's."""
    return count(model, SHAPE).macs / count(original, SHAPE).macs


METHODS: dict[str, Callable[[Start, float], nn.Module]] = {
    "original": unchanged,
    "planned for int8": planned_for_int8,
    "planned": planned,
    "planned for time": planned_for_time,
    "uniform": uniform,
    "pruned": pruned_to,
    "pruned, refined": pruned_and_refined,
    "BALF": low_rank,
    "PRACTISE": blocks_dropped,
}


if __name__ == "__main__":
    main()
