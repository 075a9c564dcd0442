"""What a training step takes on a GPU, by arithmetic and order in memory, as CSV.

    python benchmarks/step_time.py --device cuda --out benchmarks/results/step_time.csv

`ms` is from one step to the next; `busy_ms` what the GPU computes of it, so that several trainings side by side on one
GPU take at least that each. `chosen` says whether cuDNN tries its algorithms out and takes the fastest; `recorded` that
forward and backward pass are replayed as CUDA graphs.
"""

import argparse
import itertools
import shlex
import sys
import time
from pathlib import Path

import torch
from rows import read_rows, write_rows
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ghostify import create_model, load
from ghostify.errors import InputError
from ghostify.jobs.cuda_graph import record_, recording
from ghostify.jobs.learn import make_optimizer
from ghostify.jobs.recipe import Recipe
from ghostify.measure.environment import describe_environment

NETWORKS = ("vgg16_cifar", "ghost_vgg16_cifar", "resnet56", "ghost_resnet56")
SHAPE, IMAGES, WARM, STEPS, PROFILED = (3, 32, 32), 128, 5, 20, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="names, or network files")
    parser.add_argument("--recorded", action="store_true", help="only replayed ones, in bf16 and channels last")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = read_rows(arguments.out)
    environment = describe_environment(arguments.device)
    orders = ("channels last", "channels first")
    launched = itertools.product(arguments.networks, ("bf16", "fp32"), orders, (False, True), (False,))
    replayed = itertools.product(arguments.networks, ("bf16",), orders[:1], (False,), (True,))
    for network, precision, order, chosen, recorded in replayed if arguments.recorded else launched:
        model = opened(network)
        with recording([model]):
            ms, busy = step_ms(model, precision, order, chosen, recorded, arguments.device)
        rows.append(
            {
                "network": network,
                "precision": precision,
                "order": order,
                "chosen": chosen,
                "recorded": recorded,
                "images": IMAGES,
                "ms": f"{ms:.2f}",
                "busy_ms": f"{busy:.2f}",
                "steps": STEPS,
                **environment,
                "command": "python " + shlex.join(sys.argv),
            }
        )
        print(
            f"{network}, {precision}, {order}, chosen {chosen}, recorded {recorded}: {ms:.1f} ms, busy {busy:.1f}",
            flush=True,
        )
        write_rows(arguments.out, rows)


def opened(name: str) -> nn.Module:
    try:
        return create_model(name)
    except InputError:
        return load(name)


def step_ms(
    model: nn.Module, precision: str, order: str, chosen: bool, recorded: bool, device: str
) -> tuple[float, float]:
    """Milliseconds of a step, and for how many of them the GPU computes."""
    torch.backends.cudnn.benchmark = chosen
    layout = torch.channels_last if order == "channels last" else torch.contiguous_format
    model = model.to(device, memory_format=layout).train()
    optimizer = make_optimizer(model, Recipe(), 0.1)
    x = torch.randn(IMAGES, *SHAPE, device=device).contiguous(memory_format=layout)
    labels = torch.randint(10, (IMAGES,), device=device)

    def autocast(cache_enabled: bool = True) -> torch.autocast:
        return torch.autocast(x.device.type, torch.bfloat16, precision == "bf16", cache_enabled)

    if recorded:
        with autocast(cache_enabled=False):
            record_(model, x)

    def steps(number: int) -> None:
        for _ in range(number):
            with autocast():
                loss = nn.functional.cross_entropy(model(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()

    steps(WARM)
    started = time.perf_counter()
    steps(STEPS)
    ms = 1e3 * (time.perf_counter() - started) / STEPS
    kind = ProfilerActivity.CUDA if device.startswith("cuda") else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiled:
        steps(PROFILED)
    events = profiled.key_averages()
    busy = sum(e.self_device_time_total if device.startswith("cuda") else e.self_cpu_time_total for e in events)
    return ms, busy / 1e3 / PROFILED


if __name__ == "__main__":
    main()
