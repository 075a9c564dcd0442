"""Whether exported files give what their networks give: all of ours, in ONNX Runtime and OpenVINO, as CSV.

    python benchmarks/exported.py --cifar npz:cifar10.npz --photographs imagenet_sample/val \\
        --out benchmarks/results/exported.csv

Each row: one network of random weights, its file in one format, checked on images of the size that it is for: the
largest difference of an output, over the largest output, and the share of images with the same first answer. Rows that
are there already are not made again.
"""

import argparse
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rows import read_rows, write_rows
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from ghostify import create_model, export, list_models
from ghostify.data import load_data
from ghostify.data.sample import draw
from ghostify.inference.export import FORMATS, SUFFIX, Format
from ghostify.measure.environment import describe_environment
from ghostify.models.registry import Origin


def main() -> None:
    arguments = parsed(__doc__)
    rows = read_rows(arguments.out)
    for name, model, images, formats in networks(arguments, rows):
        for kind in formats:
            started = time.perf_counter()
            with TemporaryDirectory() as folder:
                file = Path(folder) / f"network{SUFFIX[kind]}"
                report = export(model, file, images[:1], format=kind, check=images.split(16))
                megabytes = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6
            forms = Counter(ghost.form for ghost in report.ghosts)
            rows.append(
                {
                    "network": name,
                    "format": kind,
                    "engine": report.engine,
                    "images": report.images,
                    "difference": f"{report.difference:.1e}",
                    "agreement": f"{report.agreement:.4f}",
                    "dense": forms["dense"],
                    "split": forms["split"],
                    "joined": forms["joined"],
                    "megabytes": f"{megabytes:.1f}",
                    "seconds": f"{time.perf_counter() - started:.0f}",
                    **describe_environment(),
                    "command": "python " + shlex.join(sys.argv),
                }
            )
            print(f"{name} {kind}: {rows[-1]['difference']}, {rows[-1]['agreement']} agree", file=sys.stderr)
            write_rows(arguments.out, rows)


def parsed(doc: str) -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list_models())
    parser.add_argument("--cifar", required=True, help="DATA for networks of 32 × 32 pixels")
    parser.add_argument("--photographs", type=Path, required=True, help="a folder per class, for the others")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def networks(
    arguments: argparse.Namespace, rows: list[dict[str, Any]]
) -> Iterator[tuple[str, nn.Module, Tensor, list[Format]]]:
    """Networks of random weights, images of their size, and the formats that have no row yet."""
    done = {(row["network"], row["format"]) for row in rows}
    images: dict[int, Tensor] = {}
    for index, name in enumerate(arguments.networks):
        formats = [kind for kind in FORMATS if (name, kind) not in done]
        if not formats:
            continue
        side = Origin(name).input_shape[-1]
        if side not in images:
            images[side] = cifar(arguments) if side == 32 else photographs(arguments, side)
        torch.manual_seed(index)
        model = create_model(name)
        model(images[side][:32])  # BatchNorm statistics of real images
        yield name, model.eval(), images[side], formats


def cifar(arguments: argparse.Namespace) -> Tensor:
    data = load_data(arguments.cifar)
    return torch.cat([x for x, _ in draw(data.test, data, arguments.images)])


def photographs(arguments: argparse.Namespace, side: int) -> Tensor:
    to_input = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(side),
            v2.CenterCrop(side),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )
    folder = ImageFolder(arguments.photographs, to_input)
    chosen = torch.randperm(len(folder), generator=torch.Generator().manual_seed(0))[: arguments.images]
    return torch.stack([folder[i][0] for i in chosen.tolist()])


if __name__ == "__main__":
    main()
