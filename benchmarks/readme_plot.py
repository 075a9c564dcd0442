"""The README's plot: ResNet-56 on CIFAR-10, accuracy against measured time, in float32 and int8.

    python benchmarks/readme_plot.py --float32 benchmarks/results/pareto_resnet56.csv \\
        --int8 benchmarks/results/pareto_int8_resnet56.csv --plot docs/resnet56.png

Both files are `pareto.py`'s. Of each method its points after five epochs, or as made where it has none; of draws the
mean.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure
from rows import read_rows

# Methods of the files: label, colour, mark; the way of learning that the README tells of.
LINES = {
    "planned for time": ("ghostify, after 5 epochs without labels", "#DD8452", "o", "hints"),
    "planned for int8": ("ghostify, planned for int8", "#DD8452", "o", ""),
    "Torch-Pruning": ("Torch-Pruning, after 5 epochs with labels", "#55A868", "^", "answers"),
    "depthwise": ("the paper's ghosts", "#8172B2", "v", ""),
}
LOWEST = 89.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--float32", type=Path, required=True)
    parser.add_argument("--int8", type=Path, required=True)
    parser.add_argument("--plot", type=Path, required=True)
    arguments = parser.parse_args()
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    axes = figure.subplots()
    in_float32, in_int8 = read_rows(arguments.float32), read_rows(arguments.int8)
    original = next(row for row in in_int8 if row["method"] == "original")
    axes.plot(1, 100 * float(original["test_top1"]), "s", color="black", markersize=9, label="original, float32")
    axes.plot(
        float(original["int8_time_ratio"]),
        100 * float(original["int8_test_top1"]),
        "s",
        color="black",
        markerfacecolor="none",
        markersize=9,
        label="original in int8 (NNCF)",
    )
    for method, (label, colour, mark, learning) in LINES.items():
        found = points(in_float32, method, learning, "")
        if found and method in ("planned for time", "Torch-Pruning"):
            axes.plot(*zip(*found, strict=True), mark, color=colour, linestyle="-", label=f"{label}, float32")
    for method, (label, colour, mark, _) in LINES.items():
        for learning, style, more in (("", ":", ""), ("hints", "-", ", 5 epochs"), ("answers", "-", ", 5 epochs")):
            found = points(in_int8, method, learning, "int8_")
            if found and method != "planned for time":
                name = label.partition(", after")[0]
                axes.plot(
                    *zip(*found, strict=True),
                    mark,
                    color=colour,
                    linestyle=style,
                    markerfacecolor="none" if not learning else colour,
                    fillstyle="full" if not learning else "left",
                    label=f"{name}{more or ', no training'}, int8",
                )
    axes.set(xlabel="time over the original's in float32 (OpenVINO, one thread)", ylabel="top-1 on CIFAR-10, %")
    axes.set(xlim=(0, 1.05), ylim=(LOWEST, 94))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside right center", fontsize=9)
    figure.savefig(arguments.plot, dpi=110)


def points(rows: list[dict[str, str]], method: str, learning: str, precision: str) -> list[tuple[float, float]]:
    """Time and accuracy in per cent of a method's sizes, the fastest first; the mean of draws."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if (row["method"], row["learning"]) == (method, learning) and row.get(f"{precision}time_ratio"):
            time, right = float(row[f"{precision}time_ratio"]), 100 * float(row[f"{precision}test_top1"])
            found[row["asked"]].append((time, right))
    means = [(fmean(t for t, _ in draws), fmean(r for _, r in draws)) for draws in found.values()]
    return sorted(point for point in means if point[1] >= LOWEST)


if __name__ == "__main__":
    main()
