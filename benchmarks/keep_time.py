"""How long a trained network takes to become its ghost without labels, and in how much memory, as CSV.

    python benchmarks/keep_time.py resnet56 --weights resnet56.th --data npz:cifar10.npz --images 1024 --threads 2 \\
        --out benchmarks/results/keep_time.csv
    python benchmarks/keep_time.py torchvision:resnet50 --data imagefolder:DIR --images 256 --threads 2 \\
        --out benchmarks/results/keep_time.csv

Each conversion, by default a plan for half of the multiply-adds and what follows from it, runs in a process
of its own; its memory is the peak of all that the process holds, PyTorch and the images included. Without --weights the
weights are random: times do not depend on them. Rows that are there already are not made again.
"""

import argparse
import multiprocessing
import resource
import shlex
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from rows import read_rows, write_rows

from ghostify import convert, count, create_model
from ghostify.allocator import keep_freed_memory
from ghostify.data import load_data
from ghostify.data.sample import draw_inputs
from ghostify.measure.environment import describe_environment
from ghostify.models.weights import load_weights_
from ghostify.transform.reconstruct import EFFORTS, Effort


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--efforts", nargs="+", choices=EFFORTS, default=list(EFFORTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = read_rows(arguments.out)
    done = {(row["network"], row["effort"], row["images"], row["threads"]) for row in rows}
    for effort in arguments.efforts:
        asked = arguments.network, effort, str(arguments.images), str(arguments.threads)
        if asked in done:
            continue
        environment = describe_environment()
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            settings = arguments.network, arguments.weights, arguments.data, effort, arguments.images, arguments.threads
            row = pool.submit(convert_once, *settings).result()
        rows.append(
            dict(zip(("network", "effort", "images", "threads"), asked, strict=True))
            | row
            | {key: value for key, value in environment.items() if key != "threads"}
            | {"command": "python " + shlex.join(sys.argv)}
        )
        write_rows(arguments.out, rows)


def convert_once(
    network: str, weights: Path | None, data: str, effort: Effort, images: int, threads: int
) -> dict[str, str]:
    """Seconds and gigabytes of one conversion, and what is left of the multiply-adds."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = create_model(network)
    if weights:
        load_weights_(model, weights)
    batches = draw_inputs(load_data(data), images)
    shape = tuple(batches[0].shape[1:])
    started = time.perf_counter()
    ghost = convert(
        model.eval(),
        calibration=batches,
        effort=effort,
        progress=lambda task, detail, step, steps: print(
            f"{time.perf_counter() - started:.0f} s, {task}: {detail}, {step}/{steps}", end="\r", file=sys.stderr
        ),
    ).model
    seconds = time.perf_counter() - started
    return {
        "macs_ratio": f"{count(ghost, shape).macs / count(model, shape).macs:.4f}",
        "seconds": f"{seconds:.0f}",
        "peak_gb": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f}",  # of kilobytes on Linux
    }


if __name__ == "__main__":
    main()
