"""How much a kind of change adds to plans for a speed, as CSV: the same plans with it and without.

    python benchmarks/kinds.py resnet56 --weights resnet56.th --data npz:cifar10.npz --without remove \\
        --targets 1.6 2.5 --measurements measured.json --out benchmarks/results/kinds.csv
    python benchmarks/kinds.py torchvision:mobilenet_v2 --weights FILE --photographs DIR --without remove \\
        --targets 1.5 --effort fast --measurements measured.json --out benchmarks/results/kinds.csv

Each row: a network planned for a speed in OpenVINO on one thread from all kinds of changes but those in `without`, and
converted without labels; its time over the original's, measured anew; and how often it gives the original's first
answer on images that it was not made with (a tenth of train held out, or the other half of the photographs). Settings
are compared by `agreement`; `test_top1` is for the record. Rows that are there already are not made again.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch
from agree import batches, first_answers
from removed import Remove
from rivals import unfold_norms_
from rows import read_rows, write_rows
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from ghostify import compare, convert, create_model, plan
from ghostify.allocator import keep_freed_memory
from ghostify.changes import registry
from ghostify.data import load_data
from ghostify.data.sample import draw, draw_inputs
from ghostify.inference.deploy import deploy
from ghostify.jobs.evaluate import evaluate
from ghostify.measure.environment import describe_environment
from ghostify.models.weights import load_weights_

ENGINE, THREADS, SEED = "openvino", 1, 0


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", help="of CIFAR-10; or")
    parser.add_argument("--photographs", type=Path, help="a folder with a folder for each class")
    parser.add_argument("--without", nargs="+", required=True, help="names of kinds")
    parser.add_argument("--targets", nargs="+", type=float, default=[1.6])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--effort", default="refined", choices=["fast", "refined"])
    parser.add_argument("--measurements", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    registry.register(Remove)
    original = load_weights_(create_model(arguments.network), arguments.weights).eval()
    data = load_data(arguments.data, hold_out=0.1) if arguments.data else None
    if data is not None:
        images = list(draw_inputs(data, arguments.images, SEED))
        judged = [inputs for inputs, _ in draw(data.val, data, 5000)]
    else:
        images, judged = photographs(arguments.photographs, arguments.images)
        unfold_norms_(original, images)
    answers = first_answers(original, judged)
    rows, all_kinds = read_rows(arguments.out), dict(registry.KINDS)
    done = {(row["network"], row["without"], row["asked"], row["effort"]) for row in rows}
    for target in arguments.targets:
        for without in ([], arguments.without):
            if (arguments.network, " ".join(without), f"{target:g}", arguments.effort) in done:
                continue
            registry.KINDS.clear()
            registry.KINDS.update({name: kind for name, kind in all_kinds.items() if name not in without})
            started = time.perf_counter()
            found = plan(
                original,
                example=images[0][:1],
                calibration=images,
                target_speedup=target,
                engine=ENGINE,
                threads=THREADS,
                measurements=arguments.measurements,
                progress=lambda task, detail, step, steps: print(task, detail, step, steps, file=sys.stderr),
            )
            planned = time.perf_counter() - started
            faster = convert(original, calibration=images, plan=found, effort=arguments.effort).model
            took = time_of(original, faster, images[0][:1])
            given = first_answers(faster, judged)
            kinds = [change.kind for layer in found.values() for change in layer.changes]
            row = {
                "network": arguments.network,
                "without": " ".join(without),
                "asked": f"{target:g}",
                "effort": arguments.effort,
                **took,
                "agreement": f"{(given == answers).float().mean():.4f}",
                "test_top1": f"{evaluate(faster, data.test, data).top1:.4f}" if data else "",
                "output_error": f"{found.output_error:.4g}",
                "macs_ratio": f"{found.macs:.4f}",
                "changes": "; ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))),
                "seconds_to_plan": f"{planned:.0f}",
                **describe_environment(),
                "command": "python " + shlex.join(sys.argv),
            }
            rows.append(row)
            print(row, file=sys.stderr)
            write_rows(arguments.out, rows)


def photographs(folder: Path, number: int) -> tuple[list[Tensor], list[Tensor]]:
    """Half of a folder's photographs, so many at most, and the other half."""
    to_input = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(224),
            v2.CenterCrop(224),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    found = ImageFolder(folder, to_input)
    drawn = torch.randperm(len(found), generator=torch.Generator().manual_seed(SEED)).tolist()
    half = len(drawn) // 2
    return batches(found, drawn[: min(half, number)]), batches(found, drawn[half:])


def time_of(original: nn.Module, faster: nn.Module, example: Tensor) -> dict[str, str]:
    """How many times as fast a network is, both deployed."""
    networks = [deploy(model, example, engine=ENGINE) for model in (original, faster)]
    found = compare(*networks, example, engine=ENGINE, threads=THREADS)
    return {
        "speedup": f"{1 / found.ratio:.3f}",
        "speedup_low": f"{1 / found.ratio_high:.3f}",
        "speedup_high": f"{1 / found.ratio_low:.3f}",
    }


if __name__ == "__main__":
    main()
