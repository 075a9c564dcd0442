"""Latency of networks and their ghosts, side by side, as CSV.

    python benchmarks/latency.py --threads 1 2 --out benchmarks/results/latency_eager.csv

Each row: one pair in one engine; medians of interleaved blocks, the ratio b / a with its 95 % interval, and the
ratio of the MACs. Run it with nothing else running.
"""

import argparse
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from rows import write_rows

from ghostify import compare, count, create_model
from ghostify.measure.environment import describe_environment

PAIRS = (
    ("vgg16_bn", "ghost_vgg16_bn"),
    ("resnet50", "ghost_resnet50"),
    ("mobilenet_v3_large", "ghostnet_100"),
    ("mobilenet_v3_large", "ghost_mobilenet_v3_large"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ghosts", nargs="+", default=[b for _, b in PAIRS], help="of the pairs, those to measure")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=30)
    arguments = parser.parse_args()

    rows = []
    for a, b in PAIRS:
        if b not in arguments.ghosts:
            continue
        networks = [create_model(name).to(arguments.device) for name in (a, b)]
        macs = [count(network, (3, 224, 224)).macs for network in networks]
        example = torch.randn(arguments.batch_size, 3, 224, 224, device=arguments.device)
        for threads in arguments.threads:
            found = compare(*networks, example, threads=threads, blocks=arguments.blocks)
            figures = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in asdict(found).items()}
            figures |= {k: "–".join(f"{x:.4g}" for x in v) for k, v in asdict(found).items() if isinstance(v, tuple)}
            environment = describe_environment(arguments.device) | {"threads": threads}
            rows.append(
                {
                    "a": a,
                    "b": b,
                    "input": f"{arguments.batch_size}×3×224×224",
                    "macs_ratio": f"{macs[1] / macs[0]:.4f}",
                    **figures,
                    **environment,
                    "command": "python " + shlex.join(sys.argv),
                }
            )
            print(found.verdict(a, b), file=sys.stderr)
            write_rows(arguments.out, rows)


if __name__ == "__main__":
    main()
