"""What a change costs on the images that its layers were fitted to, and on others, as CSV.

    python benchmarks/held_out.py torchvision:mobilenet_v2 --weights starts/mobilenet_v2.safetensors \\
        --photographs imagenet_sample/val --out benchmarks/results/held_out.csv

For each convolution whose channels can be pruned, half of them: the error of the network's output, over its variance.
Layers are fitted to --images photographs; `fitted` is the error on these, `others` that on a third as many others.
"""

import argparse
import shlex
import sys
from pathlib import Path

import torch
from agree import SIDE, batches, photographs_in
from rows import write_rows

from ghostify import count, create_model
from ghostify.changes import Prune
from ghostify.changes.layer import Convolution
from ghostify.fitting.trial import Trial
from ghostify.measure.environment import describe_environment
from ghostify.models.weights import load_weights_
from ghostify.planning.candidates import find_candidates, offer_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--mean", type=float, default=0.5)
    parser.add_argument("--std", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=96, help="to fit to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    model = load_weights_(create_model(arguments.network), arguments.weights).eval().requires_grad_(False)
    photographs = photographs_in(arguments.photographs, arguments.mean, arguments.std)
    drawn = torch.randperm(len(photographs), generator=torch.Generator().manual_seed(arguments.seed)).tolist()
    fitted = drawn[: arguments.images]
    others = drawn[arguments.images : arguments.images + arguments.images // 3]
    counted = count(model, (3, SIDE, SIDE))
    seen = batches(photographs, fitted, len(fitted))
    candidates = find_candidates(model, seen[0][:1], counted, offer_for("speedup"), images=seen[0][:4])
    found = {name: candidate.layer for name, candidate in candidates.items()}
    producers = {name: layer.producer for name, layer in found.items() if layer.producer is not None}
    absorbers = {name: layer.absorbers for name, layer in found.items() if isinstance(layer, Convolution)}
    judged = {
        "fitted": seen,  # one batch alone is for both
        "others": [*batches(photographs, others, len(others)), *seen],
    }
    trials = {
        what: Trial(model, list(found), producers, images, absorbers=absorbers) for what, images in judged.items()
    }
    rows = []
    for name, candidate in candidates.items():
        layer = candidate.layer
        if not any(isinstance(change, Prune) for option in candidate.options for change in option.changes):
            continue
        half = layer.out_channels // 2
        with torch.no_grad():
            errors = {
                what: Prune(half, layer.out_channels - half).output_error(trial, layer)
                for what, trial in trials.items()
            }
        rows.append(
            {
                "network": arguments.network,
                "layer": name,
                "channels": layer.out_channels,
                "kept": half,
                **{what: f"{error:.4f}" for what, error in errors.items()},
                "images": arguments.images,
                **describe_environment(),
                "command": "python " + shlex.join(sys.argv),
            }
        )
        print(name, errors, file=sys.stderr)
        write_rows(arguments.out, rows)


if __name__ == "__main__":
    main()
