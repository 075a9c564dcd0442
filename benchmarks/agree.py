"""How often a trained network's smaller copies give its own answers, without labels, as CSV.

    python benchmarks/agree.py torchvision:mobilenet_v2 --weights FILE --mean 0.5 --std 0.5 --images DIR \\
        --shares 0.8 0.6 --methods planned pruned --out benchmarks/results/agree_mobilenet_v2.csv

DIR holds a folder of photographs per class. Half of them, drawn by the seed, are for calibration; the other half is
judged: the share of photographs with the same first answer as the original's. Rows that are there already are not
made again.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rivals import pruned, unfold_norms_
from rows import read_rows, write_rows
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from ghostify import convert, count, create_model, plan
from ghostify.allocator import keep_freed_memory
from ghostify.measure.environment import describe_environment
from ghostify.models.weights import load_weights_

SIDE = 224
SHAPE = (3, SIDE, SIDE)


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
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    original = load_weights_(create_model(arguments.network), arguments.weights).eval()
    to_input = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(SIDE),
            v2.CenterCrop(SIDE),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([arguments.mean] * 3, [arguments.std] * 3),
        ]
    )
    photographs = ImageFolder(arguments.images, to_input)
    rows = read_rows(arguments.out)
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
                started = time.perf_counter()
                model = METHODS[method](original, images, share, seed)
                made = time.perf_counter() - started
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
                    **describe_environment(),
                    "command": "python " + shlex.join(sys.argv),
                }
                rows.append(row)
                print(f"{method} at {share:g}: {row['agreement']} agree", file=sys.stderr)
                write_rows(arguments.out, rows)


def batches(photographs: ImageFolder, indices: list[int], size: int = 32) -> list[Tensor]:
    return list(torch.stack([photographs[i][0] for i in indices]).split(size))


@torch.no_grad()
def first_answers(model: nn.Module, images: list[Tensor]) -> Tensor:
    model.eval()
    return torch.cat([model(batch).argmax(1) for batch in images])


def planned(original: nn.Module, images: list[Tensor], share: float, seed: int) -> nn.Module:
    """The plan of least output error."""
    found = plan(original, example=images[0][:1], calibration=images, target_macs=share)
    return convert(original, calibration=images, plan=found, seed=seed).model


def pruned_to(original: nn.Module, images: list[Tensor], share: float, seed: int) -> nn.Module:
    """Torch-Pruning by magnitude, BatchNorm statistics estimated anew."""
    return pruned(original, images, SHAPE, int(share * count(original, SHAPE).macs))


def cost(model: nn.Module, original: nn.Module) -> float:
    """Multiply-adds, as a share of the original's."""
    return count(model, SHAPE).macs / count(original, SHAPE).macs


METHODS: dict[str, Callable[[nn.Module, list[Tensor], float, int], nn.Module]] = {
    "planned": planned,
    "pruned": pruned_to,
}


if __name__ == "__main__":
    main()
