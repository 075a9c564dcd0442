"""Trained detectors side by side: COCO's numbers, multiply-adds, parameters, latency, seconds of training; as CSV.

    python benchmarks/detectors.py det/ghostnet_100 det/mobilenet_v3_large --data 'coco:bccd?train=train&val=val' \\
        --time --out benchmarks/results/bccd.csv

Each is a folder of `ghostify detect train`, or a file of `ghostify convert`. Scores are of the last weights.
`--in int8 bf16` adds a row for each in these precisions: its plain part as a file in OpenVINO, boxes chosen by PyTorch
as ever; the ranges for int8 come from the training images, without their boxes. Rows that are there already are not
made again. `--time` measures, on a quiet machine, what has no time yet: the plain part (backbone, pyramid and head; not
the choice of boxes) for one image in OpenVINO, deployed, over that of the first one in float32; the median of
`--comparisons`, from the lowest end of their 95 % intervals to the highest.
"""

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch
from precisions import OTHERS, RANGES_FROM, compared, in_openvino, median_of
from rows import read_rows, write_rows

from ghostify import count, deploy, load
from ghostify.data.coco import DetectionData, draw_images, load_coco
from ghostify.inference.engines import Precision
from ghostify.inference.file_detector import detector_by_file
from ghostify.jobs.coco_score import NUMBERS
from ghostify.jobs.detect import evaluate_detector
from ghostify.jobs.training_folder import HISTORY, NETWORK
from ghostify.measure.environment import describe_environment
from ghostify.plain_part import input_shape_of, parts_of
from ghostify.transform.detector import plain_inputs

# Columns that `--time` fills.
TIME = ("latency_ms", "latency_ratio", "latency_ratio_low", "latency_ratio_high")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--in", dest="precisions", nargs="*", choices=OTHERS, default=[], help="score in these, too")
    parser.add_argument("--time", action="store_true", help="measure what has no time yet")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--comparisons", type=int, default=3, help="of each with the first, for its time")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_coco(arguments.data)
    files = [path / NETWORK if path.is_dir() else path for path in arguments.networks]
    rows = [{"network": row["network"], "precision": "fp32", **row} for row in read_rows(arguments.out)]
    done = {(row["network"], row["precision"]) for row in rows}
    precisions: list[Precision] = ["fp32", *arguments.precisions]
    for file, precision in product(files, precisions):
        if (file.parent.name, precision) in done:
            continue
        with in_precision(load(file), precision, data) as detector:
            row = {"network": file.parent.name, "precision": precision, **scored(file, detector, data)}
        row |= (
            {"engine": "openvino", **dict.fromkeys(TIME, "")}
            | describe_environment("cpu")
            | {"command": "python " + shlex.join(sys.argv)}
        )
        rows.append(row)
        print(f"{file} in {precision}: AP50 {row['AP50']}", file=sys.stderr)
        write_rows(arguments.out, rows)
    if arguments.time:
        measure_times(rows, files, arguments)


def measure_times(rows: list[dict[str, Any]], files: list[Path], arguments: argparse.Namespace) -> None:
    """Time what has none yet against the first network in float32."""
    first = load(files[0])
    example = torch.zeros(1, *input_shape_of(first))
    before = deploy(first, example, engine="openvino")
    for file, row in product(files, rows):
        if row["network"] != file.parent.name or row["latency_ratio"]:
            continue
        after = deploy(load(file), example, engine="openvino")
        conditions = {"threads": arguments.threads, "comparisons": arguments.comparisons}
        found = compared(before, after, example, row["precision"], **conditions)
        values = (statistics.median(one.b_ms for one in found), *median_of(found))
        row |= dict(zip(TIME, (f"{value:.4f}" for value in values), strict=True))
        write_rows(arguments.out, rows)


@contextmanager
def in_precision(network: Any, precision: Precision, data: DetectionData) -> Iterator[Any]:
    """The detector; in another precision than float32 with the outputs of its plain part from a file."""
    if precision == "fp32":
        yield network
        return
    images = plain_inputs(network, draw_images(data.train, RANGES_FROM))
    with in_openvino(network, precision, images) as file:
        yield detector_by_file(network, file)


def scored(file: Path, network: Any, data: DetectionData) -> dict[str, Any]:
    """How the network was trained, if it was, and how good it is."""
    history = file.parent / HISTORY
    epochs = json.loads(history.read_text())["history"] if history.exists() else []
    score, _ = evaluate_detector(network, data.test, data)
    shape = input_shape_of(network)
    counted = count(network, shape)
    macs = {f"macs_{part}": counted.of(name)[0] for part, name in parts_of(network).items()}
    return {
        "epochs": len(epochs),
        "training_minutes": round(sum(epoch["seconds"] for epoch in epochs) / 60, 1),
        "images": score.images,
        **{
            name: None if value is None else round(value, 4) for name, value in score.numbers.items() if name in NUMBERS
        },
        "input": "x".join(map(str, shape)),
        "macs": counted.macs,
        **macs,
        "params": counted.params,
    }


if __name__ == "__main__":
    main()
