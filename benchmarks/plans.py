"""Whether plans reach the speed that was asked for, and how long planning takes, as CSV.

    python benchmarks/plans.py resnet56 --weights resnet56.th --data npz:cifar10.npz --out benchmarks/results/plans.csv
    python benchmarks/plans.py torchvision:resnet50 --data imagefolder:DIR --out benchmarks/results/plans.csv
    python benchmarks/plans.py torchvision:ssdlite320_mobilenet_v3_large --data coco:DIR --out plans.csv

For each target: a plan, the network converted by it in closed form, and its time over the original's, both deployed,
measured anew in processes of their own. A target that the plan refuses is a row that says so. The first row of a
network has what was measured for all its targets in its seconds; rows that are there already are not made again.
Without --weights the weights are random: times do not depend on them, output errors do.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch
from rows import read_rows, write_rows

from ghostify import InputError, compare, convert, create_model, deploy, plan
from ghostify.allocator import keep_freed_memory
from ghostify.data import load_data
from ghostify.data.coco import draw_images, load_coco
from ghostify.data.sample import draw_inputs
from ghostify.measure.environment import describe_environment
from ghostify.models.weights import load_weights_
from ghostify.plain_part import input_shape_of, is_detector, plain_part

KEY = ("network", "engine", "threads", "target", "merging")
MEASURED = (
    "refused",
    "seconds_to_plan",
    "reachable",
    "planned",
    "speedup",
    "speedup_low",
    "speedup_high",
    "original_ms",
    "planned_ms",
    "macs_ratio",
    "output_error",
)


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--targets", type=float, nargs="+", default=[1.3, 1.6, 1.9])
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--merging", action="store_true", help="let convolutions take combinations of their inputs")
    parser.add_argument("--measurements", type=Path, help="file to go on with after an interruption")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = create_model(arguments.network)
    if arguments.weights:
        load_weights_(model, arguments.weights)
    model.eval()
    if is_detector(model):
        images = list(draw_images(load_coco(arguments.data).train, arguments.images))
        example = torch.zeros(1, *input_shape_of(model))
    else:
        images = draw_inputs(load_data(arguments.data), arguments.images, 0)
        example = images[0][:1]
    rows = read_rows(arguments.out)
    done = {tuple(row[name] for name in KEY) for row in rows}
    for target in arguments.targets:
        key = (arguments.network, arguments.engine, str(arguments.threads), f"{target:g}", str(arguments.merging))
        if key in done:
            continue
        row = dict(zip(KEY, key, strict=True)) | dict.fromkeys(MEASURED, "")
        started = time.perf_counter()
        try:
            found = plan(
                model,
                example=example,
                calibration=images,
                target_speedup=target,
                engine=arguments.engine,
                threads=arguments.threads,
                merging=arguments.merging,
                measurements=arguments.measurements,
                progress=lambda task, detail, step, steps: print(f"{task} {detail} {step}/{steps}", file=sys.stderr),
            )
        except InputError as error:
            row |= {"refused": str(error), "seconds_to_plan": f"{time.perf_counter() - started:.0f}"}
        else:
            row["seconds_to_plan"] = f"{time.perf_counter() - started:.0f}"
            ghost = convert(model, plan=found, calibration=images, effort="fast").model
            both = [deploy(plain_part(network), example, engine=arguments.engine) for network in (model, ghost)]
            again = compare(both[0], both[1], example, engine=arguments.engine, threads=arguments.threads)
            assert found.speedup is not None
            row |= {
                "reachable": f"{found.limit:.3f}",
                "planned": f"{found.speedup[0]:.3f}",
                "speedup": f"{1 / again.ratio:.3f}",
                "speedup_low": f"{1 / again.ratio_high:.3f}",
                "speedup_high": f"{1 / again.ratio_low:.3f}",
                "original_ms": f"{again.a_ms:.4g}",
                "planned_ms": f"{again.b_ms:.4g}",
                "macs_ratio": f"{found.macs:.4f}",
                "output_error": f"{found.output_error:.4g}",
            }
        of_engine = {"threads": arguments.threads, "command": "python " + shlex.join(sys.argv)}
        rows.append(row | describe_environment() | of_engine)
        print(*row.values(), flush=True)
        write_rows(arguments.out, rows)


if __name__ == "__main__":
    main()
