"""The ImageNet recipes from end to end on a few photographs: train, be killed, go on, evaluate; as CSV.

    python benchmarks/imagenet_rows.py --sample imagenet_sample/val --out benchmarks/results/imagenet_rows.csv

The sample holds a folder of photographs per class. Train and val are the same first ones of it, so that a network that
learns is right there; it says nothing of ImageNet.
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

from ghostify.jobs.recipes import ROWS
from ghostify.measure.environment import describe_environment

EPOCHS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=Path, required=True, help="folder with a folder of photographs per class")
    parser.add_argument("--classes", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rows", nargs="+", default=[name for name, row in ROWS.items() if row.data == "imagenet"])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = read_rows(arguments.out)
    for name in arguments.rows:
        if name in {row["recipe"] for row in rows}:
            continue
        with TemporaryDirectory() as folder:
            for part in ("train", "val"):
                (Path(folder) / part).mkdir()
                for place in sorted(arguments.sample.iterdir())[: arguments.classes]:
                    (Path(folder) / part / place.name).symlink_to(place.resolve())
            row = one_row(name, Path(folder), arguments.batch_size)
        rows.append(row | describe_environment("cpu") | {"command": "python " + shlex.join(sys.argv)})
        write_rows(arguments.out, rows)


def one_row(name: str, data: Path, batch_size: int) -> dict[str, Any]:
    """Train for two epochs, killed after the first; what it came to."""
    out = data / "out"
    train = ["train", "--recipe", name, "--data", f"imagenet:{data}", "--epochs", str(EPOCHS), "--warmup-epochs", "0"]
    train += ["--batch-size", str(batch_size), "--hold-out", "0", "--resume", "--out", str(out), "--json"]
    started = time.perf_counter()
    kill_after_an_epoch(*train, out=out)
    trained = told(*train)
    scored = told("evaluate", str(out / "network.safetensors"), "--data", f"imagenet:{data}", "--json")
    assert len(trained["history"]) == EPOCHS
    assert (scored["top1"], scored["top5"]) == (trained["top1"], trained["top5"])
    first, last = trained["history"][0], trained["history"][-1]
    return {
        "recipe": name,
        "images": scored["test_images"],
        "steps": EPOCHS * (last["images"] // batch_size),
        "first_loss": round(first["train_loss"], 3),
        "last_loss": round(last["train_loss"], 3),
        "images_per_second": round(last["images"] / last["seconds"], 2),
        "top1": scored["top1"],
        "top5": scored["top5"],
        "seconds": round(time.perf_counter() - started),
    }


if __name__ == "__main__":
    main()
