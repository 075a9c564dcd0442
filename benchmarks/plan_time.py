"""How long a plan for a share of the multiply-adds takes, and what a network keeps by it in closed form, as CSV.

    python benchmarks/plan_time.py resnet56 --weights resnet56.th --data npz:cifar10.npz --out plan_time.csv
    python benchmarks/plan_time.py torchvision:mobilenet_v2 --weights FILE --data imagefolder:DIR --out plan_time.csv
    PYTHONPATH=OLDER/src python benchmarks/plan_time.py … --build OLDER

Processor seconds of one thread, which depend little on what else runs. Judged are as many other images of the same
data: the share with the original's first answer. Without --weights the weights are random, and nothing is judged. A row
for each network and build; those that are there already are not made again.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch
from rows import read_rows, write_rows
from torch import Tensor, nn

from ghostify import convert, create_model, plan
from ghostify.allocator import keep_freed_memory
from ghostify.data import load_data
from ghostify.data.sample import draw_inputs
from ghostify.measure.environment import describe_environment
from ghostify.models.weights import load_weights_


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--macs", type=float, default=0.7, help="the share to plan for")
    parser.add_argument("--build", default="this", help="a name for the code that runs")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = read_rows(arguments.out)
    if any((row["network"], row["build"]) == (arguments.network, arguments.build) for row in rows):
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = create_model(arguments.network)
    if arguments.weights:
        load_weights_(model, arguments.weights)
    drawn = torch.cat(list(draw_inputs(load_data(arguments.data), 2 * arguments.images)))
    images, others = (list(half.split(64)) for half in drawn.chunk(2))
    began, waited = time.process_time(), time.perf_counter()
    found = plan(model.eval(), example=images[0][:1], calibration=images, target_macs=arguments.macs)
    seconds, waited = time.process_time() - began, time.perf_counter() - waited
    planned = convert(model, calibration=images, plan=found, effort="fast").model
    row = {
        "network": arguments.network,
        "build": arguments.build,
        "macs": arguments.macs,
        "images": sum(map(len, images)),
        "processor_seconds": f"{seconds:.0f}",
        "seconds": f"{waited:.0f}",
        "agreement": f"{agreement(model, planned, others):.4f}" if arguments.weights else "",
    }
    rows.append(row | describe_environment() | {"command": "python " + shlex.join(sys.argv)})
    write_rows(arguments.out, rows)


@torch.no_grad()
def agreement(model: nn.Module, other: nn.Module, images: list[Tensor]) -> float:
    """The share of images to which two networks give the same first answer."""
    same = [model.eval()(x).argmax(1) == other.eval()(x).argmax(1) for x in images]
    return float(torch.cat(same).float().mean())


if __name__ == "__main__":
    main()
