"""Times of small networks that somebody trained well, over that of a large one, as CSV.

    python benchmarks/pretrained.py --out benchmarks/results/pretrained.csv

`top1` is what timm publishes for the weights of that name at 224 pixels (results/results-imagenet.csv of its
repository, 2025-10-30); weights here are random, as times do not depend on them. All are deployed in OpenVINO, branches
that their authors merge after training merged: the median of three comparisons with ResNet-50, each in processes of its
own.
"""

import argparse
import shlex
import sys
from pathlib import Path

import torch
from precisions import RATIO, measured_ratio
from rows import read_rows, write_rows
from timm.utils import reparameterize_model

from ghostify import count, create_model, deploy
from ghostify.measure.environment import describe_environment

SHAPE = (3, 224, 224)
LARGE = "resnet50"
# timm's name of the weights → published top-1 on ImageNet, %.
PUBLISHED = {
    "resnet50.tv2_in1k": 80.846,
    "repvit_m1_1.dist_450e_in1k": 81.314,
    "repvit_m1_0.dist_450e_in1k": 80.430,
    "mobilenetv4_conv_medium.e500_r224_in1k": 79.092,
    "repvit_m0_9.dist_450e_in1k": 79.058,
    "mobilenetv3_large_100.ra4_e3600_r224_in1k": 76.310,
    "mobilenetv4_conv_small.e2400_r224_in1k": 73.756,
    "mobilenetv2_100.ra_in1k": 72.910,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    example = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    large = deploy(create_model(f"timm:{LARGE}").eval(), example, engine="openvino")
    rows = read_rows(arguments.out)
    done = {row["weights"] for row in rows}
    for weights, top1 in PUBLISHED.items():
        if weights in done:
            continue
        model = create_model(f"timm:{weights.partition('.')[0]}").eval()
        macs = count(model, SHAPE).macs
        small = deploy(reparameterize_model(model), example, engine="openvino")
        told = measured_ratio(large, small, example, "fp32", threads=arguments.threads, comparisons=3)
        ratio, low, high = (float(told[column]) for column in RATIO)
        rows.append(
            {
                "weights": weights,
                "top1": top1,
                "macs": macs,
                "speedup": f"{1 / ratio:.2f}",
                "speedup_low": f"{1 / high:.2f}",
                "speedup_high": f"{1 / low:.2f}",
                **describe_environment(),
                "command": "python " + shlex.join(sys.argv),
            }
        )
        write_rows(arguments.out, rows)
        print(f"{weights}: {top1} %, {rows[-1]['speedup']} times as fast", file=sys.stderr)


if __name__ == "__main__":
    main()
