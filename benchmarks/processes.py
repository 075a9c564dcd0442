"""Whether two processes of 64 images each learn what one of 128 learns: ResNet-20, 50 steps, norms held; as JSON.

python benchmarks/processes.py --weights resnet20.th --data cifar10.npz --out benchmarks/results/processes.json
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ghostify import create_model
from ghostify.atomic import replacing
from ghostify.measure.environment import describe_environment
from ghostify.models.weights import load_weights_

SCRIPT = Path(__file__).resolve().parents[1] / "tests" / "jobs" / "two_processes.py"
FIT, HELD_OUT = 50 * 128, 711  # which neither two processes nor batches of 250 divide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as .npz")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with TemporaryDirectory() as name, np.load(arguments.data) as images:
        count = FIT + HELD_OUT
        part = {"x_train": images["x_train"][:count], "y_train": images["y_train"][:count]}
        np.savez(Path(name) / "part.npz", **part, x_test=images["x_test"][:10], y_test=images["y_test"][:10])
        found = {dtype: compared(Path(name), arguments.weights, dtype) for dtype in ("float32", "float64")}
    result = {**found, **describe_environment("cpu"), "command": "python " + shlex.join(sys.argv)}
    with replacing(arguments.out) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


def compared(folder: Path, weights: Path, dtype: str) -> dict[str, Any]:
    """How far apart the weights are, and what both counted."""
    (alone, counted), (shared, shared_counted) = (learn(folder, processes, weights, dtype) for processes in (1, 2))
    start = load_weights_(create_model("resnet20"), weights).state_dict()
    learnt = [key for key in alone if key in start]
    return {
        "steps": counted["images"][0] // 128,
        "most_apart": max(float((alone[key] - shared[key]).abs().max()) for key in alone),
        "most_moved": max(float((alone[key] - start[key]).abs().max()) for key in learnt),
        "held_out": HELD_OUT,
        "right_by_one_process": round(counted["val_top1"][0] * HELD_OUT, 6),
        "right_by_two_processes": round(shared_counted["val_top1"][0] * HELD_OUT, 6),
    }


def learn(folder: Path, processes: int, weights: Path, dtype: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights after an epoch, and what was counted."""
    out = folder / f"{processes}, {dtype}"
    out.mkdir()
    settings = [str(HELD_OUT / (FIT + HELD_OUT)), str(128 // processes), "0.001", "1", str(out), str(weights), dtype]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        str(SCRIPT),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, str(folder / "part.npz"), *settings], env=environment, check=True)
    return torch.load(out / "weights.pt", weights_only=True), json.loads((out / "counted.json").read_text())


if __name__ == "__main__":
    main()
