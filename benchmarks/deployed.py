"""Whether deployed networks compute what they computed: our own and torchvision's, converted, as CSV.

    python benchmarks/deployed.py --out benchmarks/results/deployed.csv

Each row: one network, its BatchNorms with arbitrary statistics, deployed for one image of an odd size and asked three
of another: the largest difference in float64 and in float32, over the largest output, and the forms of its ghosts.
`rounding` is how far each is in float32 from the network in float64: what is no smaller than that is no difference.
Rows that are there already are not made again.
"""

import argparse
import copy
import shlex
import sys
import time
from collections import Counter
from pathlib import Path

import torch
import torchvision
from rows import read_rows, write_rows
from torch import nn

from ghostify import convert, create_model, deploy, list_models
from ghostify.measure.environment import describe_environment
from ghostify.models.registry import Origin

# Torchvision's families; of each size of a family one, or the two that differ in structure.
TORCHVISION = """
    alexnet convnext_tiny densenet121 densenet161 efficientnet_b0 efficientnet_b1 efficientnet_v2_s googlenet
    inception_v3 mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small
    regnet_x_400mf regnet_x_800mf regnet_y_400mf regnet_y_800mf resnet18 resnet34 resnet50 resnet101 resnext50_32x4d
    shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 vgg11
    vgg11_bn vgg16 wide_resnet50_2
""".split()
CHEAP = ("depthwise", "pointwise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=[*list_models(), *(f"torchvision:{n}" for n in TORCHVISION)])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    rows = read_rows(arguments.out)
    done = {row["network"] for row in rows}
    for index, name in enumerate(arguments.networks):
        if name in done:
            continue
        torch.manual_seed(index)
        started = time.perf_counter()
        model = create_model(name)
        kind = "as it comes"
        if name.startswith("torchvision:"):  # the two kinds of ghosts in turn
            kind = CHEAP[index % len(CHEAP)]
            model = convert(model, cheap=kind).model
        model = shaken(model)
        sides = sizes(name)
        deployed64 = deploy(model.double(), torch.randn(1, 3, *sides[0], dtype=torch.float64))
        x = torch.randn(3, 3, *sides[1], dtype=torch.float64)
        wide = difference(model, deployed64, x)
        single = copy.deepcopy(model).float()
        deployed32 = deploy(single, torch.randn(1, 3, *sides[0]))
        narrow = difference(single, deployed32, x.float())
        rounding = [difference(model, network, x, x.float()) for network in (single, deployed32)]
        forms = Counter(ghost.form for ghost in deployed32.ghosts)
        row = {
            "network": name,
            "ghosts": kind,
            "dense": forms["dense"],
            "split": forms["split"],
            "joined": forms["joined"],
            "deployed_for": "1×3×{}×{}".format(*sides[0]),
            "asked": "3×3×{}×{}".format(*sides[1]),
            "float64": f"{wide:.1e}",
            "float32": f"{narrow:.1e}",
            "rounding": f"{rounding[0]:.1e}",
            "rounding_deployed": f"{rounding[1]:.1e}",
            "seconds": f"{time.perf_counter() - started:.0f}",
            **describe_environment(),
            "command": "python " + shlex.join(sys.argv),
        }
        rows.append(row)
        print(f"{name}: {row['float64']} in float64, {row['float32']} in float32", file=sys.stderr)
        write_rows(arguments.out, rows)


def sizes(name: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width to deploy for, and to ask, pixels: odd, small, and large enough for the network's pooling."""
    family = name.removeprefix("torchvision:")
    if family == "inception_v3":  # five halvings without padding, and a window of 5 at the end
        return (107, 113), (111, 125)
    if Origin(name).input_shape[-1] == 32:
        return (33, 35), (37, 45)
    return (67, 75), (71, 93)


def shaken(model: nn.Module) -> nn.Module:
    """BatchNorms as a training might leave them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.1, 2)
            nn.init.normal_(module.weight, 1, 0.5)
            nn.init.normal_(module.bias, std=0.5)
    return model.eval()


@torch.no_grad()
def difference(model: nn.Module, deployed: nn.Module, x: torch.Tensor, given: torch.Tensor | None = None) -> float:
    """Largest, over the largest output; ``given``: what the other network gets, where that is not the same."""
    before, after = model(x), deployed(x if given is None else given)
    return float((before - after).abs().max() / before.abs().max())


if __name__ == "__main__":
    assert set(TORCHVISION) <= set(torchvision.models.list_models())
    main()
