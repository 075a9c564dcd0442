"""Hashes of small ghosts, by which two versions of this project can be told to make the same ones to the last bit.

    python benchmarks/same_bits.py PLAN.json [PLAN.json …] --weights resnet20.th

Each plan is carried out on a ResNet-20 with those weights and on 64 random images, in closed form and refined, on one
thread; a line per ghost. Compare the lines of two versions on one machine: another processor rounds otherwise.
"""

import argparse
import hashlib
from pathlib import Path

import torch

from ghostify import convert, create_model
from ghostify.models.weights import load_weights_
from ghostify.planning.plan_file import read_plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plans", nargs="+", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_weights_(create_model("resnet20"), arguments.weights).eval()
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)).split(16)
    for path in arguments.plans:
        for effort in ("fast", "refined"):
            torch.manual_seed(0)  # new layers draw weights, of which a few are never used
            ghost = convert(model, plan=read_plan(path), calibration=images, effort=effort).model
            digest = hashlib.sha256()
            for name, tensor in sorted(ghost.state_dict().items()):
                digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
            print(path.name, effort, digest.hexdigest()[:32], flush=True)


if __name__ == "__main__":
    main()
