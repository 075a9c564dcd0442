"""Pictures of numbers and feature maps; the only place that draws."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

matplotlib.use("agg")
COLOURS = {"original": "#4C72B0", "ghost": "#DD8452", "rival": "#55A868"}
# For pairs of maps: distinct on white and on black, also to the colour-blind (after Okabe and Ito 2008).
PAIR_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B58900", "#56B4E9", "#8B5CF6", "#C1272D")


def to_grey(maps: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Maps ``[maps, height, width]`` as uint8, each from black at its least to white at its largest value.

    Args:
        low, high: Other values for black and white, ``[maps]``.

    Example:
        >>> to_grey(torch.tensor([[[-1.0, 0.0, 1.0]], [[7.0, 7.0, 7.0]]])).tolist()
        [[[0, 128, 255]], [[0, 0, 0]]]
    """
    low = maps.amin((1, 2)) if low is None else low
    high = maps.amax((1, 2)) if high is None else high
    span = torch.where(high > low, high - low, 1.0)
    return ((maps - low[:, None, None]) / span[:, None, None]).clamp(0, 1).mul(255).round().to(torch.uint8)


@dataclass(frozen=True)
class Sheet:
    """Maps side by side in one picture.

    Args:
        uri: ``data:`` address of the picture.
        columns: Maps in a row.
        rows: Rows of maps.
    """

    uri: str
    columns: int
    rows: int


def sheet(grey: Tensor, largest: int = 64, columns: int = 32) -> Sheet:
    """All maps in one lossless picture, from which a page cuts single ones.

    Args:
        grey: uint8 ``[maps, height, width]``.
        largest: Height and width to which larger maps are averaged down, pixels.
        columns: Maps in a row, at most.
    """
    height, width = (min(largest, size) for size in grey.shape[1:])
    small = F.adaptive_avg_pool2d(grey.float()[:, None], (height, width))[:, 0].round().to(torch.uint8)
    columns = min(columns, len(small))
    picture = mosaic(small, columns, gap=0)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="webp", lossless=True)
    return Sheet(uri("image/webp", buffer.getvalue()), columns, -(-len(small) // columns))


@dataclass(frozen=True)
class Photograph:
    """A photograph for a page.

    Args:
        uri: ``data:`` address of the picture.
        height, width: Its size as the network got it, pixels.
    """

    uri: str
    height: int
    width: int


def photograph(pixels: Tensor, largest: int = 512) -> Photograph:
    """A photograph as a network gets it, in a picture without loss.

    Args:
        pixels: uint8 ``[3, height, width]``.
        largest: Longer side to which a larger one is brought, pixels.
    """
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    image.thumbnail((largest, largest))
    buffer = io.BytesIO()
    image.save(buffer, format="webp", lossless=True)
    return Photograph(uri("image/webp", buffer.getvalue()), *pixels.shape[1:])


def mosaic(grey: Tensor, columns: int, gap: int) -> NDArray[np.uint8]:
    """Maps in rows, white between them.

    Example:
        >>> mosaic(torch.zeros(3, 1, 2, dtype=torch.uint8), columns=2, gap=1).tolist()
        [[0, 0, 255, 0, 0], [255, 255, 255, 255, 255], [0, 0, 255, 255, 255]]
    """
    count, height, width = grey.shape
    rows = -(-count // columns)
    cells = torch.full((rows * columns, height + gap, width + gap), 255, dtype=torch.uint8)
    cells[:count, :height, :width] = grey
    joined = cells.unflatten(0, (rows, columns)).permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1)
    return joined[: joined.shape[0] - gap, : joined.shape[1] - gap].numpy()


# Of a page's plots: on a phone's 360 pixels their text is still 10 pixels high.
PLOT = (4.5, 3.4)
# Marks of networks, filled in float32 and open in int8: told apart without colour, too.
MARKS = {"original": ("s", COLOURS["original"]), "ours": ("o", COLOURS["ghost"])}
RIVALS = "^vD<>"
KINDS = {"original": "original", "ours": "made faster"}


def accuracy_against_time(rows: Sequence[Mapping[str, Any]], accuracy: str) -> Figure:
    """Accuracy against the share of the original's time, a mark for each network: filled in float32, open in int8.

    Args:
        rows: Each with the fields of a ``Row``.
        accuracy: Label of the axis.
    """
    figure = Figure(figsize=(PLOT[0], PLOT[1] + 0.25 * len(rows)), layout="constrained")
    axes = figure.subplots()
    named: set[str] = set()
    rivals = list(dict.fromkeys(row["name"] for row in rows if row["kind"] == "rival"))
    marks = MARKS | {name: (RIVALS[place % len(RIVALS)], COLOURS["rival"]) for place, name in enumerate(rivals)}
    for row in rows:
        mark, colour = marks[row["name"] if row["kind"] == "rival" else row["kind"]]
        x, y = 1 / row["speedup"], 100 * row["score"]
        wide = [[x - 1 / row["speedup_high"]], [1 / row["speedup_low"] - x]]
        tall = [[y - 100 * row["score_low"]], [100 * row["score_high"] - y]]
        precision = "float32" if row["precision"] == "fp32" else row["precision"]
        label = f"{KINDS.get(row['kind'], row['name'])}, {precision}"
        axes.errorbar(
            x,
            y,
            xerr=np.abs(wide),
            yerr=np.abs(tall),
            fmt=mark,
            color=colour,
            markerfacecolor=colour if row["precision"] == "fp32" else "none",
            elinewidth=0.7,
            label=label if label not in named else None,
        )
        named.add(label)
    axes.axvline(1, color="black", linewidth=0.7, linestyle=":")
    axes.set(xlabel="time over the original's in float32", ylabel=accuracy, xlim=(0, None))
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    plain(axes)
    return figure


def layer_speeds(macs: Sequence[float], time: Sequence[float], weight: Sequence[float]) -> Figure:
    """Each layer's share of time left against its share of multiply-adds left.

    Args:
        macs: Multiply-adds after over before, layer by layer.
        time: Time after over before, layer by layer.
        weight: Share of the original's time that each layer takes, 0..1; the area of its mark.
    """
    figure = Figure(figsize=PLOT, layout="constrained")
    axes = figure.subplots()
    end = 1.05 * max(1.0, *macs, *time)
    axes.plot([0, end], [0, end], color="black", linewidth=0.7, linestyle=":", label="as much time as multiply-adds")
    axes.scatter(macs, time, s=[20 + 1200 * share for share in weight], color=COLOURS["ghost"], alpha=0.6)
    axes.set(xlabel="multiply-adds, ghost over original", ylabel="time, ghost over original")
    axes.set(xlim=(0, end), ylim=(0, end))
    axes.legend(frameon=False, loc="lower right")
    plain(axes)
    return figure


def draw_maps(axes: Axes, grey: Tensor, columns: int, marks: Sequence[str | None]) -> list[tuple[float, float]]:
    """Draw maps in rows, in frames of the colours ``marks``; the middle of each is returned, in the axes' pixels."""
    _, height, width = grey.shape
    gap = max(1, width // 8)
    axes.imshow(mosaic(grey, columns, gap), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    middles = []
    for index, colour in enumerate(marks):
        row, column = divmod(index, columns)
        left, top = column * (width + gap) - 0.5, row * (height + gap) - 0.5
        middles.append((left + width / 2, top + height / 2))
        if colour is not None:
            frame = Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=1.6, clip_on=False)
            axes.add_patch(frame)
    return middles


@dataclass(frozen=True)
class DrawnPair:
    """A pair of maps and the errors of the best filters between them.

    Args:
        source, target: Indices of the maps.
        errors: Share of the target's variance that the best filter of each size leaves, 0..1.
    """

    source: int
    target: int
    errors: Mapping[int, float]


def paired_maps(
    title: str, grey: Tensor, pairs: Sequence[DrawnPair], explained: Mapping[str, tuple[list[int], list[float]]]
) -> Figure:
    """Maps with the most similar pairs framed and linked, these pairs' errors, and curves of the variance explained.

    Args:
        title: Heading.
        grey: uint8 ``[maps, height, width]``.
        pairs: The most similar pairs, best first; as many are drawn as there are colours.
        explained: Curves by name: numbers of intrinsic maps, and the shares of variance that they explain, 0..1.
    """
    columns = max(6, round((1.35 * len(grey)) ** 0.5))
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.55, 1))[0]
    marks: list[str | None] = [None] * len(grey)
    for pair, colour in zip(pairs, PAIR_COLOURS, strict=False):
        marks[pair.source] = marks[pair.target] = colour
    axes = grid.subplots()
    middles = draw_maps(axes, grey, columns, marks)
    for pair, colour in zip(pairs, PAIR_COLOURS, strict=False):
        ends = middles[pair.source], middles[pair.target]
        axes.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.2})
    table, curve = right.subplots(2, 1, height_ratios=(1, 1.3))
    table.set_axis_off()
    if pairs:
        sizes = list(pairs[0].errors)
        cells = [
            [f"{p.source} → {p.target}", *(f"{100 * p.errors[d]:.1f}" for d in sizes)]
            for p, _ in zip(pairs, PAIR_COLOURS, strict=False)
        ]
        drawn = table.table(cells, colLabels=["error, %", *(f"d = {d}" for d in sizes)], loc="center", edges="open")
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(8)
        for row, colour in enumerate(PAIR_COLOURS[: len(cells)]):
            drawn[row + 1, 0].set_text_props(color=colour, fontweight="bold")
    for name, (counts, shares) in explained.items():
        curve.plot(counts, [100 * share for share in shares], label=name)
    curve.set(xlabel="intrinsic maps", ylabel="variance explained, %", ylim=(0, 101))
    curve.legend(frameon=False, fontsize=8, loc="lower right")
    plain(curve)
    return figure


def beside(title: str, parts: Mapping[str, tuple[Tensor, Sequence[str | None]]], columns: int = 8) -> Figure:
    """The same maps of several networks side by side, each a grid with its heading.

    Args:
        title: Heading of the whole.
        parts: Grids by heading: maps, uint8 ``[maps, height, width]``, and the colours of their frames.
        columns: Maps in a row.
    """
    rows = max(-(-len(marks) // columns) for _, marks in parts.values())
    figure = Figure(figsize=(3.4 * len(parts), 0.43 * rows + 0.8), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axes, (name, (grey, marks)) in zip(
        figure.subplots(1, len(parts), squeeze=False).flat, parts.items(), strict=True
    ):
        draw_maps(axes, grey, columns, marks)
        axes.set_title(name, fontsize=9)
    return figure


def plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def png(figure: Figure, dpi: int = 110) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """A figure as an SVG element whose text has the colour of the page around it."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ghostify"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("#000000", "currentColor")


def uri(kind: str, content: bytes) -> str:
    """Bytes as a ``data:`` address, for a page that needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
