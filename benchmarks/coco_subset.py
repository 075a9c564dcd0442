"""Detectors from end to end on some images of COCO: train, be killed, go on, score all 80 categories; as CSV.

    python benchmarks/coco_subset.py --data coco:coco_subset --out benchmarks/results/coco_subset.csv

Two hundred images teach nothing of 80 categories: the scores say that the way is whole, not that it leads anywhere.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rows import read_rows, write_rows
from verbs import kill_after_an_epoch, told

from ghostify.measure.environment import describe_environment

EPOCHS = 2
SMALL = ["--fpn-channels", "64", "--min-size", "160", "--max-size", "256", "--smallest-anchor", "16"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--models", nargs="+", default=["retinanet_ghostnet_110_fpn", "fasterrcnn_ghostnet_110_fpn"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = read_rows(arguments.out)
    for model in arguments.models:
        if model in {row["model"] for row in rows}:
            continue
        with TemporaryDirectory() as folder:
            row = one_row(model, arguments.data, arguments.threads, Path(folder))
        rows.append(row | describe_environment("cpu") | {"command": "python " + shlex.join(sys.argv)})
        write_rows(arguments.out, rows)


def one_row(model: str, data: str, threads: int, out: Path) -> dict[str, Any]:
    """Train for two epochs, killed after the first; what it came to."""
    machine = ["--threads", str(threads), "--workers", "0", "--json"]
    train = ["detect", "train", model, "--data", data, *SMALL, "--norm", "--epochs", str(EPOCHS), "--resume"]
    started = time.perf_counter()
    kill_after_an_epoch(*train, *machine, "--out", str(out), out=out)
    trained = told(*train, *machine, "--out", str(out))
    scored = told("detect", "evaluate", str(out / "network.safetensors"), "--data", data, *machine)
    assert len(trained["history"]) == EPOCHS
    assert scored["numbers"] == trained["numbers"]
    first, last = trained["history"]
    return {
        "model": model,
        "images": last["images"],
        "first_loss": round(first["train_loss"], 3),
        "last_loss": round(last["train_loss"], 3),
        "images_per_second": round(last["images"] / last["seconds"], 2),
        "scored_images": scored["images"],
        "categories": len(scored["categories"]),
        "boxes": scored["found"],
        "AP": scored["numbers"]["AP"],
        "AP50": scored["numbers"]["AP50"],
        "seconds": round(time.perf_counter() - started),
    }


if __name__ == "__main__":
    main()
