"""Every plot of the documents, from the files in benchmarks/results/; of each a light and a dark picture.

    python benchmarks/plots.py --out docs

The original is a square. A line has at most a method's points for one way of learning, and its name beside it.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rows import read_rows

RESULTS = Path(__file__).parent / "results"
SIZE, DPI = (5.0, 3.5), 200  # inches of a panel: at 400 pixels its letters are some ten pixels tall
POINTS = 9.5  # of the letters
# Background, letters, and the colours of methods.
SCHEMES = {
    "": {"paper": "#ffffff", "ink": "#1b1f24", "ours": "#0b62c4", "rival": "#b8500b", "other": "#7d5a00"}
    | {"third": "#7a45b8", "fourth": "#0a7568"},
    "_dark": {"paper": "#131416", "ink": "#e4e6ea", "ours": "#72b6ff", "rival": "#ffa467", "other": "#e3c558"}
    | {"third": "#c9a6ff", "fourth": "#5dd3c1"},
}
TIME, RIGHT = "time of one image, as a share of the original's", "right answers on CIFAR-10, %"
AS_MADE, TUNED = "without labels, without training", "after five epochs, with labels where not said"


@dataclass(frozen=True)
class Line:
    """A method's points.

    Args:
        label: Its name, in words.
        colour: A name of ``SCHEMES``.
        points: Time and per cent of right answers, the fastest first.
        place: Time and per cent at which the name begins.
        dashed: Draw it so.
    """

    label: str
    colour: str
    points: list[tuple[float, float]]
    place: tuple[float, float]
    dashed: bool = False


@dataclass(frozen=True)
class Original:
    """The network as it was: its point, and where its name begins."""

    label: str
    point: tuple[float, float]
    place: tuple[float, float]


@dataclass(frozen=True)
class Panel:
    """A plot of accuracy against time.

    Args:
        lines: At most five.
        originals: The original in each precision.
        x: Ends of the axis of time.
        y: Ends of the axis of accuracy; points below are left out.
        title: Stands above it.
    """

    lines: list[Line]
    originals: list[Original]
    x: tuple[float, float]
    y: tuple[float, float]
    title: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    plots = {"resnet56": [resnet56()], "pareto_resnet56": pareto_resnet56(), "pareto_vgg16": pareto_vgg16()}
    for name, panels in plots.items():
        for suffix, scheme in SCHEMES.items():
            draw(panels, scheme, arguments.out / f"{name}{suffix}.png")


def resnet56() -> Panel:
    """ResNet-56 after five epochs, ours without labels; in int8 also as made, where it was not trained."""
    floats, ints = read_rows(RESULTS / "pareto_resnet56.csv"), read_rows(RESULTS / "pareto_int8_resnet56.csv")
    original = next(row for row in ints if row["method"] == "original")
    as_made, tuned = (points(ints, "planned for int8", learning, "int8_") for learning in ("", "hints"))
    return Panel(
        [
            Line("ghostify", "ours", points(floats, "planned for time", "hints"), (0.39, 92.75)),
            Line("ghostify in int8", "ours", tuned + as_made[-1:], (0.02, 92.75), dashed=True),
            Line("Torch-Pruning", "rival", points(floats, "Torch-Pruning", "answers"), (0.58, 91.4)),
            Line("Torch-Pruning in int8", "rival", points(ints, "Torch-Pruning", "answers", "int8_"), (0.02, 91.85)),
            Line("the paper's ghosts in int8", "third", points(ints, "depthwise", "", "int8_"), (0.58, 90.45)),
        ],
        [
            Original("the original", (1.0, percent(original["test_top1"])), (0.86, 93.65)),
            Original(
                "the original in int8",
                (float(original["int8_time_ratio"]), percent(original["int8_test_top1"])),
                (0.22, 93.65),
            ),
        ],
        x=(0, 1.1),
        y=(89, 94),
    )


def pareto_resnet56() -> list[Panel]:
    rows = read_rows(RESULTS / "pareto_resnet56.csv")
    in_int8 = read_rows(RESULTS / "pareto_int8_resnet56.csv")
    original = (1.0, percent(next(row for row in in_int8 if row["method"] == "original")["test_top1"]))
    return [
        Panel(
            [
                Line("planned for a speed", "ours", points(rows, "planned for time"), (0.14, 93.2)),
                Line("planned for multiply-adds", "fourth", points(rows, "planned, merging"), (0.8, 94.6)),
                Line(
                    "Torch-Pruning, refined\nby ghostify", "other", points(rows, "Torch-Pruning, refined"), (0.49, 76)
                ),
                Line("Torch-Pruning", "rival", points(rows, "Torch-Pruning"), (0.76, 85)),
                Line("the paper's ghosts", "third", points(rows, "depthwise")[:1], (1.0, 88)),
            ],
            [Original("the original", original, (1.06, 93))],
            x=(0.1, 1.35),
            y=(70, 96),
            title=AS_MADE,
        ),
        Panel(
            [
                Line("planned for a speed, no labels", "ours", points(rows, "planned for time", "hints"), (0.2, 93.6)),
                Line("planned for multiply-adds", "fourth", points(rows, "planned", "answers"), (0.7, 92.2)),
                Line(
                    "Torch-Pruning, refined", "other", points(rows, "Torch-Pruning, refined", "answers"), (0.75, 93.9)
                ),
                Line("Torch-Pruning", "rival", points(rows, "Torch-Pruning", "answers"), (0.52, 90.3)),
                Line("the paper's ghosts", "third", points(rows, "depthwise", "answers"), (1.0, 91.6)),
            ],
            [Original("the original", original, (1.06, 93.35))],
            x=(0.1, 1.35),
            y=(88.5, 94.5),
            title=TUNED,
        ),
    ]


def pareto_vgg16() -> list[Panel]:
    rows = read_rows(RESULTS / "pareto_vgg16.csv")
    of = {"network": "vgg16", "ema": "0.02", "device": "cpu"}
    trained = next(row for row in read_rows(RESULTS / "cifar10_rows.csv") if of.items() <= row.items())
    original = (1.0, percent(trained["test_top1"]))
    return [
        Panel(
            [
                Line("planned for a speed", "ours", points(rows, "planned for time"), (0.3, 91)),
                Line("planned for multiply-adds", "fourth", points(rows, "planned"), (0.36, 88.8)),
                Line(
                    "Torch-Pruning, refined\nby ghostify", "other", points(rows, "Torch-Pruning, refined"), (0.42, 83)
                ),
                Line("Torch-Pruning", "rival", points(rows, "Torch-Pruning"), (0.79, 82)),
                Line("the paper's ghosts", "third", points(rows, "depthwise")[-1:], (0.32, 87.5)),
            ],
            [Original("the original", original, (0.87, 91))],
            x=(0.15, 1.1),
            y=(74, 92),
            title=AS_MADE,
        ),
        Panel(
            [
                Line("planned for a speed, no labels", "ours", points(rows, "planned for time", "hints"), (0.2, 90.25)),
                Line(
                    "Torch-Pruning, refined", "other", points(rows, "Torch-Pruning, refined", "answers"), (0.62, 89.5)
                ),
                Line("Torch-Pruning", "rival", points(rows, "Torch-Pruning", "answers"), (0.66, 90.4)),
            ],
            [Original("the original", original, (0.9, 90.3))],
            x=(0.15, 1.1),
            y=(87.5, 91),
            title=TUNED,
        ),
    ]


def points(
    rows: list[dict[str, Any]], method: str, learning: str = "", precision: str = ""
) -> list[tuple[float, float]]:
    """Time and accuracy of a method's sizes, the fastest first; the mean of draws."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if (row["method"], row["learning"]) == (method, learning) and row.get(f"{precision}time_ratio"):
            found[row["asked"]].append((float(row[f"{precision}time_ratio"]), percent(row[f"{precision}test_top1"])))
    return sorted((fmean(t for t, _ in draws), fmean(r for _, r in draws)) for draws in found.values())


def percent(share: str) -> float:
    return 100 * float(share)


def draw(panels: list[Panel], scheme: Mapping[str, str], path: Path) -> None:
    figure = Figure(figsize=(SIZE[0], SIZE[1] * len(panels)), layout="constrained", facecolor=scheme["paper"])
    for axes, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        draw_panel(axes, panel, scheme)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})  # the same picture from the same figures


def draw_panel(axes: Axes, panel: Panel, scheme: Mapping[str, str]) -> None:
    ink = scheme["ink"]
    axes.set_facecolor(scheme["paper"])
    for line in panel.lines:
        colour, style = scheme[line.colour], "--" if line.dashed else "-"
        inside = [point for point in line.points if point[1] >= panel.y[0]]
        axes.plot(*zip(*inside, strict=True), "o", color=colour, linestyle=style, markersize=5, linewidth=1.8)
        axes.text(*line.place, line.label, color=colour, fontsize=POINTS, va="center")
    for original in panel.originals:
        axes.plot(*original.point, "s", color=ink, markersize=8)
        axes.text(*original.place, original.label, color=ink, fontsize=POINTS, va="center")
    axes.set(xlim=panel.x, ylim=panel.y)
    axes.set_xlabel(TIME, color=ink, fontsize=POINTS)
    axes.set_ylabel(RIGHT, color=ink, fontsize=POINTS)
    axes.set_title(panel.title, color=ink, fontsize=POINTS, loc="left")
    axes.tick_params(colors=ink, labelsize=POINTS)
    axes.grid(color=ink, alpha=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(ink)


if __name__ == "__main__":
    main()
