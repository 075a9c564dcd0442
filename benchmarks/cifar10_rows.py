"""The CIFAR-10 rows: VGG-16, ResNet-56, their ghosts, and the originals made narrower to the ghosts' cost; as CSV.

    python benchmarks/cifar10_rows.py --data npz:cifar10.npz --epochs 15 --seeds 0 --work trainings \\
        --out benchmarks/results/cifar10_rows.csv

All learn by the same recipe from random weights; `--epochs 0` takes the recipe's own number. `--networks ablation` are
Ghost-VGG-16s of other d and s. A tenth of train is held out only to watch. A training that was interrupted goes on,
rows that are there are left; a network's weights stay beside its training, and each epoch of it is a row of
`cifar10_rows_log.csv`. `right` lists the test images that were right as hexadecimal bits, so that two networks can be
compared image by image: `cifar10_rows_gaps.csv` says by how much.
"""

import argparse
import shlex
import sys
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arithmetic import add_arithmetic, in_arithmetic
from rows import read_rows, write_rows
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ghostify import count, create_model
from ghostify.allocator import keep_freed_memory
from ghostify.data import ImageData, load_data
from ghostify.data.augment import normalise
from ghostify.data.images import join_batches
from ghostify.jobs.checkpoint import Epoch
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.recipes import ROWS
from ghostify.jobs.train import train
from ghostify.measure.environment import describe_environment
from ghostify.progress import Progress
from ghostify.transform.narrow import narrow

SHAPE = (3, 32, 32)
GHOSTS = {"vgg16": "ghost_vgg16", "resnet56": "ghost_resnet56"}
NETWORKS = [name for original, ghost in GHOSTS.items() for name in (original, ghost, f"narrow_{original}")]
# Ghost-VGG-16 with other filters and ratios than d = 3, s = 2 (Han et al. 2020, tables 3 and 4).
ABLATION = {f"ghost_vgg16, d={d}": {"cheap_kernel_size": d} for d in (1, 5, 7)} | {
    f"ghost_vgg16, s={s}": {"ratio": s} for s in (3, 4, 5)
}
KEYS = ("network", "recipe", "epochs", "seed", "ema")  # of a row


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--networks", nargs="+", choices=[*NETWORKS, *ABLATION, "ablation"], default=NETWORKS)
    parser.add_argument("--recipe", choices=["paper", "modern"], default="modern")
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add_arithmetic(parser)
    parser.add_argument("--work", type=Path, required=True, help="folder for what interrupted trainings go on with")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    data = load_data(arguments.data, hold_out=0.1)
    rows = read_rows(arguments.out)
    log_file = arguments.out.with_stem(f"{arguments.out.stem}_log")
    log = read_rows(log_file)
    networks = [n for name in arguments.networks for n in (ABLATION if name == "ablation" else [name])]
    for seed in arguments.seeds:
        for name in networks:
            one = OneTraining(name, arguments.recipe, arguments.epochs, seed)
            if any(one.about.items() <= row.items() for row in rows):
                continue
            row, history = one.row(
                data,
                in_arithmetic(one.schedule, arguments),
                RunOptions(arguments.device, checkpoint=arguments.work / f"{one.name}.pt", resume=True),
                lambda task, detail, step, steps: print(detail, end="\r", file=sys.stderr),
            )
            log = [row for row in log if not one.about.items() <= row.items()]
            log += history
            write_rows(log_file, log)
            rows.append(row)
            write_rows(arguments.out, rows)
    write_rows(arguments.out.with_stem(f"{arguments.out.stem}_gaps"), gaps(rows))


@dataclass(frozen=True)
class OneTraining:
    """A network that learns from random weights.

    Args:
        network: One of ``NETWORKS`` or ``ABLATION``.
        recipe: "paper" or "modern".
        epochs: 0 for the recipe's own number.
        seed: Of weights, order and augmentation.
    """

    network: str
    recipe: str
    epochs: int
    seed: int

    @property
    def schedule(self) -> Recipe:
        """The recipe, shortened where fewer epochs are asked for."""
        plain = self.network.removeprefix("narrow_").split(",")[0]
        whole = ROWS[f"cifar10_{plain}{'_modern' if self.recipe == 'modern' else ''}"].recipe
        epochs = self.epochs or whole.epochs
        warmup = whole.warmup_epochs * epochs / whole.epochs
        return replace(whole, epochs=epochs, warmup_epochs=warmup, seed=self.seed)

    @property
    def about(self) -> dict[str, str]:
        """What its row is known by."""
        schedule = self.schedule
        key = (self.network, self.recipe, str(schedule.epochs), str(self.seed), f"{schedule.ema:g}")
        return dict(zip(KEYS, key, strict=True))

    @property
    def name(self) -> str:
        """Of its files."""
        return ", ".join(self.about.values())

    def row(
        self, data: ImageData, recipe: Recipe, options: RunOptions, progress: Progress
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Train, or go on with the checkpoint, and score: its row, and one for each epoch; its weights stay beside."""
        torch.manual_seed(self.seed)
        model = build(self.network)
        counted = count(model, SHAPE)
        history = train(model, data, recipe, options=options, progress=progress)
        if options.checkpoint is not None:
            torch.save(model.state_dict(), Path(options.checkpoint).with_suffix(".pth"))
        right = right_answers(model, data, options.device)
        row = {
            **self.about,
            "macs": counted.macs,
            "params": counted.params,
            "val_top1": f"{history[-1].val_top1:.4f}",
            "test_top1": f"{right.float().mean().item():.4f}",
            **interval(right),
            "seconds": f"{sum(epoch.seconds for epoch in history):.0f}",
            **describe_environment(options.device),
            "command": "python " + shlex.join(sys.argv),
            "right": np.packbits(right.numpy()).tobytes().hex(),
        }
        return row, [self.about | logged(epoch) for epoch in history]


def logged(epoch: Epoch) -> dict[str, str]:
    """What one pass over the training images gave, as text."""
    return {name: f"{value:.6g}" for name, value in asdict(epoch).items() if value is not None}


def interval(right: Tensor) -> dict[str, str]:
    """Wilson's 95 % interval of the share of right answers."""
    ends = binomtest(int(right.sum()), len(right)).proportion_ci(0.95, method="wilson")
    return {"test_top1_low": f"{ends.low:.4f}", "test_top1_high": f"{ends.high:.4f}"}


def gaps(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """How many points of top-1 each network is ahead of those behind it, by the same images, means over their seeds.

    `half` is half of the 95 % interval that so many test images leave (normal approximation, paired by image).
    """
    groups: dict[tuple[str, str, str], dict[str, list[Any]]] = {}
    for row in rows:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8)).astype(float)
        learned = (row["recipe"], row["epochs"], row["ema"])
        groups.setdefault(learned, {}).setdefault(row["network"], []).append(bits)
    found = []
    for learned, networks in groups.items():
        means = {name: np.mean(bits, 0) for name, bits in networks.items()}
        for one, other in permutations(means, 2):
            apart = means[one] - means[other]
            if apart.mean() > 0:
                row = dict(zip(("recipe", "epochs", "ema"), learned, strict=True)) | {"network": one, "behind": other}
                points, half = 100 * apart.mean(), 196 * apart.std() / len(apart) ** 0.5
                found.append(row | {"points": f"{points:.2f}", "half": f"{half:.2f}"})
    return found


def build(name: str) -> nn.Module:
    """One of the networks, from random weights."""
    if name in ABLATION:
        return create_model("ghost_vgg16_cifar", **ABLATION[name])
    original = ROWS[f"cifar10_{name.removeprefix('narrow_')}"]
    model = create_model(original.model, **original.options)
    if not name.startswith("narrow_"):
        return model
    ghost = ROWS[f"cifar10_{GHOSTS[name.removeprefix('narrow_')]}"]
    return narrow(model, SHAPE, count(create_model(ghost.model, **ghost.options), SHAPE).macs)


@torch.inference_mode()
def right_answers(model: nn.Module, data: ImageData, device: str) -> Tensor:
    """Which test images are right: bool ``[images]``."""
    model.eval()
    found = []
    for pixels, labels in DataLoader(data.test, 250, collate_fn=join_batches):
        logits = model(normalise(pixels.to(device), data.mean, data.std))
        found.append(logits.argmax(1).cpu() == labels)
    return torch.cat(found)


if __name__ == "__main__":
    main()
