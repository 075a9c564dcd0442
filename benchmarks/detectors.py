"""Trained detectors side by side: COCO's numbers, multiply-adds, parameters, latency, seconds of training; as CSV.

    python benchmarks/detectors.py det/ghostnet_100 det/mobilenet_v3_large --data 'coco:bccd?train=train&val=val' \\
        --out benchmarks/results/bccd.csv

Each is a folder of `ghostify detect train`, or a file of `ghostify convert`. Scores are of the last weights. Latency is
that of the plain part (backbone, pyramid and head; not of the choice of boxes) for one image, deployed, over that of
the first one.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from rows import write_rows

from ghostify import compare, count, deploy, load
from ghostify.data.coco import DetectionData, load_coco
from ghostify.jobs.coco_score import NUMBERS
from ghostify.jobs.detect import evaluate_detector
from ghostify.jobs.training_folder import HISTORY, NETWORK
from ghostify.measure.environment import describe_environment
from ghostify.plain_part import input_shape_of, parts_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_coco(arguments.data)
    files = [path / NETWORK if path.is_dir() else path for path in arguments.networks]
    first, rows = load(files[0]), []
    for file in files:
        network = load(file)
        row = scored(file, network, data) | timed(first, network, arguments.engine, arguments.threads)
        rows.append(row | describe_environment("cpu") | {"command": "python " + shlex.join(sys.argv)})
        print(f"{file}: AP50 {rows[-1]['AP50']}", file=sys.stderr)
        write_rows(arguments.out, rows)


def scored(file: Path, network: Any, data: DetectionData) -> dict[str, Any]:
    """How the network was trained, if it was, and how good it is."""
    history = file.parent / HISTORY
    epochs = json.loads(history.read_text())["history"] if history.exists() else []
    score, _ = evaluate_detector(network, data.test, data)
    shape = input_shape_of(network)
    counted = count(network, shape)
    macs = {f"macs_{part}": counted.of(name)[0] for part, name in parts_of(network).items()}
    return {
        "network": file.parent.name,
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


def timed(first: Any, network: Any, engine: str, threads: int) -> dict[str, Any]:
    """Its latency over that of the first one."""
    example = torch.zeros(1, *input_shape_of(first))
    found = compare(
        *(deploy(model, example, engine=engine) for model in (first, network)), example, engine=engine, threads=threads
    )
    return {
        "engine": engine,
        "latency_ms": round(found.b_ms, 3),
        "latency_ratio": round(found.ratio, 4),
        "latency_ratio_low": round(found.ratio_low, 4),
        "latency_ratio_high": round(found.ratio_high, 4),
    }


if __name__ == "__main__":
    main()
