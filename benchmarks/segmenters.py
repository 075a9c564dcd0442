"""Networks that name the class of each pixel, side by side: mean IoU, multiply-adds, parameters, latency; as CSV.

    PYTHONPATH=benchmarks python benchmarks/segmenters.py seg/original seg/planned_1.5/ghost.safetensors \\
        seg/planned_1.5_tuned --factory starts:lraspp_mobilenet_v2 --data 'coco:coco_subset?classes=person' \\
        --out benchmarks/results/segmenters.csv

Each is a folder of `ghostify segment train`, or a file of `ghostify convert`. Times are of one image in OpenVINO with 1
thread, deployed, over that of the first network: the median of three comparisons, from the lowest end of their 95 %
intervals to the highest. The interval of the mean IoU is by draws of the images.
"""

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from precisions import compared, median_of
from rows import write_rows

from ghostify import count, load
from ghostify.jobs.masks_of_run import MasksOfRun
from ghostify.jobs.training_folder import HISTORY, NETWORK
from ghostify.measure.environment import describe_environment
from ghostify.modes import evaluating
from ghostify.verbs.prepared import masks_for

COMPARISONS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", type=Path)
    parser.add_argument("--factory")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = [path / NETWORK if path.is_dir() else path for path in arguments.networks]
    first, rows = None, list[dict[str, Any]]()
    for file in files:
        model = load(file, factory=arguments.factory).eval()
        first = first or model
        data = MasksOfRun(masks_for(model, arguments.data, image_size=None, mean=None, std=None))
        with evaluating(model), torch.no_grad():
            answers = data.answers(model, 0, None, file.parent.name)
        example = torch.zeros(1, *data.shape)
        times = compared(first, model, example, "fp32", threads=1, comparisons=COMPARISONS)
        counted = count(model, data.shape)
        history = file.parent / HISTORY
        epochs = json.loads(history.read_text())["history"] if history.exists() else []
        names = ("latency_ms", "latency_ratio", "latency_ratio_low", "latency_ratio_high")
        values = (statistics.median(one.b_ms for one in times), *median_of(times))
        scored = answers.scored
        rows.append(
            {
                "network": file.parent.name,
                "epochs": len(epochs),
                "images": len(answers.counts),
                "mean_iou": f"{scored.score:.4f}",
                "mean_iou_low": f"{scored.score_low:.4f}",
                "mean_iou_high": f"{scored.score_high:.4f}",
                "input": "x".join(map(str, data.shape)),
                "macs": counted.macs,
                "params": counted.params,
                "engine": "openvino",
                **dict(zip(names, (f"{value:.4f}" for value in values), strict=True)),
                **describe_environment("cpu"),
                "command": "python " + shlex.join(sys.argv),
            }
        )
        print(f"{rows[-1]['network']}: {rows[-1]['mean_iou']} at {rows[-1]['latency_ratio']}", file=sys.stderr)
        write_rows(arguments.out, rows)


if __name__ == "__main__":
    main()
