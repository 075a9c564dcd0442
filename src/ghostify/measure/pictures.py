"""Pictures of numbers and feature maps; the only place that draws."""

import base64
import io
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

matplotlib.use("agg")
COLOURS = {"original": "#4C72B0", "ghost": "#DD8452", "narrow": "#55A868"}


def training_curves(histories: Mapping[str, Sequence[Mapping[str, float | None]]]) -> Figure:
    """Loss while training and top-1 on the held-out images, epoch by epoch, one line per network."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    loss, top1 = figure.subplots(1, 2)
    for name, history in histories.items():
        epochs = [epoch["epoch"] for epoch in history]
        style = {"color": COLOURS.get(name), "label": name, "marker": "."}
        loss.plot(epochs, [epoch["train_loss"] for epoch in history], **style)
        if all(epoch["val_top1"] is not None for epoch in history):
            top1.plot(epochs, [100 * (epoch["val_top1"] or 0) for epoch in history], **style)
    loss.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    top1.set(xlabel="epoch", ylabel="top-1 on held-out images, %")
    loss.legend(frameon=False)
    for axes in (loss, top1):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def feature_maps(maps: Tensor, intrinsic: int | None = None, columns: int = 8) -> Figure:
    """A grid of feature maps, each scaled to its own range.

    Args:
        maps: ``[maps, height, width]``.
        intrinsic: How many of them, from the first, a convolution made; the others are framed as ghosts.
    """
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(columns * 0.7, rows * 0.7), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for index, cell in enumerate(axes):
        cell.set(xticks=[], yticks=[])
        if index >= len(maps):
            cell.set_axis_off()
            continue
        cell.imshow(maps[index].float().numpy(), cmap="gray")
        ghost = intrinsic is not None and index >= intrinsic
        cell.spines[:].set(color=COLOURS["ghost" if ghost else "original"], linewidth=2 if ghost else 0.5)
    return figure


def png_uri(figure: Figure, dpi: int = 110) -> str:
    """A figure as a ``data:`` address, for a page that needs no other file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
