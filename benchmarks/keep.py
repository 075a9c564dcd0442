"""How much of what a trained CIFAR-10 network knows its ghost keeps, and what its rivals keep, as CSV.

    python benchmarks/keep.py resnet56 --weights resnet56.th --data npz:cifar10.npz \\
        --methods planned pruned --epochs 0 4 --draws 0 1 2 --out benchmarks/results/keep.csv

Each row: one network made by one method from one draw of calibration images, on the CPU, and trained for so many
epochs with labels on `--device`. Rows that are there already are not made again, and with `--made DIR` neither are the
networks, and an interrupted training goes on. A tenth of train is held out: compare settings by `val_top1`;
`test_top1` is for the record.
"""

import argparse
import copy
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from arithmetic import add_arithmetic, in_arithmetic
from rivals import pruned
from rows import read_rows, write_rows
from torch import Tensor, nn

from ghostify import convert, count, create_model, load, plan, save
from ghostify.allocator import keep_freed_memory
from ghostify.data import ImageData, load_data
from ghostify.data.sample import draw_inputs
from ghostify.jobs.evaluate import evaluate
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import Teacher, train
from ghostify.measure.environment import describe_environment
from ghostify.models.weights import load_weights_
from ghostify.network_file import read_extra
from ghostify.transform.narrow import narrow

SHAPE = (3, 32, 32)
# Peak learning rate of the epochs with labels: a trained network's, from the leads, and a random one's.
TUNE = Recipe(lr=0.01, warmup_epochs=0.5)
LEARN = Recipe(lr=0.1, warmup_epochs=0.5)
Made = tuple[nn.Module, str]  # and a remark


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", help="resnet20 or resnet56")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--epochs", type=int, nargs="+", default=[0, 4])
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=1024)
    add_arithmetic(parser)
    parser.add_argument("--made", type=Path, help="folder that keeps the networks as made, and trainings")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    original = load_weights_(create_model(arguments.network), arguments.weights).eval()
    macs = count(original, SHAPE).macs
    data = load_data(arguments.data, hold_out=0.1)
    rows = read_rows(arguments.out)
    done = {(row["network"], row["method"], row["draw"], row["epochs"]) for row in rows}
    for method in arguments.methods:
        for draw in arguments.draws:
            for epochs in arguments.epochs:
                if (arguments.network, method, str(draw), str(epochs)) in done:
                    continue
                make, recipe, taught = METHODS[method]
                images = draw_inputs(data, arguments.images, draw)
                file = arguments.made and arguments.made / f"{arguments.network}, {method}, draw {draw}.pt"
                torch.manual_seed(draw)
                model, made, _ = made_once(file, partial(make, original, images, draw))
                model.to(arguments.device)
                started = time.perf_counter()
                if epochs:
                    teacher = Teacher(copy.deepcopy(original)) if taught else None
                    train(
                        model,
                        data,
                        in_arithmetic(replace(recipe, epochs=epochs, seed=draw), arguments),
                        teacher=teacher,
                        options=RunOptions(
                            arguments.device, checkpoint=file and file.with_suffix(f".{epochs}_epochs.pt"), resume=True
                        ),
                        progress=lambda task, detail, step, steps: print(detail, end="\r", file=sys.stderr),
                    )
                row = {
                    "network": arguments.network,
                    "method": method,
                    "draw": draw,
                    "images": arguments.images,
                    "epochs": epochs,
                    "macs_ratio": f"{count(model, SHAPE).macs / macs:.4f}",
                    "val_top1": f"{top1(model, data, arguments.device, held_out=True):.4f}",
                    "test_top1": f"{top1(model, data, arguments.device, held_out=False):.4f}",
                    "seconds_to_make": f"{made:.0f}",
                    "seconds_in_all": f"{made + time.perf_counter() - started:.0f}",
                    **describe_environment(arguments.device),
                    "command": "python " + shlex.join(sys.argv),
                }
                rows.append(row)
                print(f"{method} {draw}, {epochs} epochs: {row['val_top1']} held out", file=sys.stderr)
                write_rows(arguments.out, rows)


def made_once(file: Path | None, make: Callable[[], nn.Module | Made]) -> tuple[nn.Module, float, str]:
    """The network that the file holds, else made and put there; the seconds that making it took, and a remark."""
    if file is not None and file.exists():
        extra = read_extra(file)
        return load(file), extra["seconds"], extra.get("remark", "")
    started = time.perf_counter()
    made = make()
    model, remark = made if isinstance(made, tuple) else (made, "")
    seconds = time.perf_counter() - started
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save(model, file, extra={"seconds": seconds, "remark": remark})
    return model, seconds, remark


def top1(model: nn.Module, data: ImageData, device: str, *, held_out: bool) -> float:
    part = data.val if held_out else data.test
    assert part is not None
    return evaluate(model, part, data, device=device).top1


def stem_of(model: nn.Module) -> str:
    """Name of the first convolution, which is left whole."""
    return next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))


def kept(**options: object) -> Callable[[nn.Module, Sequence[Tensor], int], nn.Module]:
    def make(original: nn.Module, images: Sequence[Tensor], seed: int) -> nn.Module:
        return convert(original, skip=[stem_of(original)], calibration=images, seed=seed, **options).model

    return make


def planned(share: float, *, merging: bool) -> Callable[[nn.Module, Sequence[Tensor], int], nn.Module]:
    """The plan of least output error at a share of the multiply-adds."""

    def make(original: nn.Module, images: Sequence[Tensor], seed: int) -> nn.Module:
        skip = [stem_of(original)]
        found = plan(original, example=images[0][:1], calibration=images, target_macs=share, skip=skip, merging=merging)
        return convert(original, calibration=images, plan=found, seed=seed).model

    return make


def half_pruned(original: nn.Module, images: Sequence[Tensor], seed: int) -> nn.Module:
    """Torch-Pruning by magnitude to half the MACs, BatchNorm statistics estimated anew."""
    return pruned(original, images, SHAPE, count(original, SHAPE).macs // 2)


def anew(model: nn.Module) -> nn.Module:
    """The same network with random weights."""
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model


def random_ghost(original: nn.Module, images: Sequence[Tensor], seed: int) -> nn.Module:
    return anew(convert(original, skip=[stem_of(original)], cheap="pointwise").model)


def random_narrow(original: nn.Module, images: Sequence[Tensor], seed: int) -> nn.Module:
    return anew(narrow(original, SHAPE, count(original, SHAPE).macs // 2))


# How each network is made, how it then learns, and whether the original teaches it.
METHODS: dict[str, tuple[Callable[[nn.Module, Sequence[Tensor], int], nn.Module], Recipe, bool]] = {
    "planned": (planned(0.5, merging=False), TUNE, True),
    "planned, 0.35": (planned(0.35, merging=False), TUNE, True),
    "planned, merging": (planned(0.5, merging=True), TUNE, True),
    "planned, merging, 0.35": (planned(0.35, merging=True), TUNE, True),
    "pointwise": (kept(cheap="pointwise"), TUNE, True),
    "depthwise": (kept(cheap="depthwise"), TUNE, True),
    "pruned": (half_pruned, replace(TUNE, lr=0.02), True),
    "random ghost": (random_ghost, LEARN, False),
    "random ghost taught": (random_ghost, LEARN, True),
    "random narrow": (random_narrow, LEARN, False),
}


if __name__ == "__main__":
    main()
