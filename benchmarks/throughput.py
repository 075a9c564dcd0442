"""Images per second and peak memory of a training step, of each ghost against its original, as CSV.

    python benchmarks/throughput.py --threads 2 --out benchmarks/results/throughput.csv

Each network trains in a process of its own, block by block in turn with the other, on images that are there already.
"""

import argparse
import multiprocessing
import resource
import shlex
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rows import read_rows, write_rows

from ghostify import create_model
from ghostify.allocator import keep_freed_memory
from ghostify.jobs.learn import make_optimizer, trains_in_bf16
from ghostify.jobs.recipe import Recipe
from ghostify.measure.environment import describe_environment

# Original, ghost, size of the images, images per step.
PAIRS = [
    ("vgg16_cifar", "ghost_vgg16_cifar", 32, 128),
    ("resnet56", "ghost_resnet56", 32, 128),
    ("mobilenet_v3_large", "ghostnet_100", 224, 32),
    ("mobilenet_v3_large", "ghost_mobilenet_v3_large", 224, 32),
    ("resnet50", "ghost_resnet50", 224, 16),
]

WARM = 3  # what is allocated and planned in the first steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = read_rows(arguments.out)
    done = {(row["ghost"], row["original"], row["device"]) for row in rows}
    wanted = [pair for pair in PAIRS if (pair[1], pair[0], arguments.device) not in done]
    # All start at once: on a machine of many cores that takes as long as one.
    started = [
        [Worker(name, size, images, arguments.threads, arguments.device) for name in (original, ghost)]
        for original, ghost, size, images in wanted
    ]
    for (original, ghost, size, images), workers in zip(wanted, started, strict=True):
        for _ in range(WARM):
            for worker in workers:
                worker.step()
        seconds = [[worker.step() for worker in workers] for _ in range(arguments.blocks)]
        ratios = sorted(after / before for before, after in seconds)
        before, after = (statistics.median(times) for times in zip(*seconds, strict=True))
        peaks = [worker.end() for worker in workers]
        rows.append(
            {
                "original": original,
                "ghost": ghost,
                "image_size": size,
                "images_per_step": images,
                "original_images_per_second": f"{images / before:.1f}",
                "ghost_images_per_second": f"{images / after:.1f}",
                "time_ratio": f"{statistics.median(ratios):.3f}",
                "time_ratio_least": f"{ratios[0]:.3f}",
                "time_ratio_most": f"{ratios[-1]:.3f}",
                "original_peak_mb": f"{peaks[0]:.0f}",
                "ghost_peak_mb": f"{peaks[1]:.0f}",
                "blocks": arguments.blocks,
                **describe_environment(arguments.device),
                "threads": arguments.threads,
                "command": "python " + shlex.join(sys.argv),
            }
        )
        print(rows[-1]["ghost"], rows[-1]["time_ratio"], file=sys.stderr)
        write_rows(arguments.out, rows)


class Worker:
    """A network that takes a step when told to, in a process of its own."""

    def __init__(self, *settings: Any) -> None:
        here, there = multiprocessing.get_context("spawn").Pipe()
        self.told = here
        self.process = multiprocessing.get_context("spawn").Process(target=serve, args=(there, *settings))
        self.process.start()

    def step(self) -> float:
        self.told.send("step")
        seconds: float = self.told.recv()
        return seconds

    def end(self) -> float:
        """Peak memory of the process less what it had before the network, MB."""
        self.told.send("end")
        megabytes: float = self.told.recv()
        self.process.join()
        return megabytes


def serve(told: Connection, name: str, size: int, images: int, threads: int, device: str) -> None:
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    before = peak_mb(device)
    recipe = Recipe()
    model = create_model(name).to(device, memory_format=torch.channels_last).train()
    optimizer = make_optimizer(model, recipe, recipe.lr)
    x = torch.randn(images, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (images,), device=device)
    autocast = trains_in_bf16(recipe.precision, x.device)
    while told.recv() == "step":
        started = time.perf_counter()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
            loss = torch.nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        told.send(time.perf_counter() - started)
    told.send(peak_mb(device) - before)


def peak_mb(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # kilobytes on Linux


if __name__ == "__main__":
    main()
