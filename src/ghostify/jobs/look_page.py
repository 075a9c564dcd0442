"""Layers' maps and their similarity as a page to explore and as pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ghostify.atomic import replacing
from ghostify.jobs.look import SeenLayer
from ghostify.jobs.page import render
from ghostify.measure import pictures

MAPS_DRAWN = 32
PAGE, PICTURE, BESIDE = "look.html", "look.png", "against.png"


def page_layer(layer: SeenLayer) -> dict[str, Any]:
    """The layer's numbers and its maps as pictures, for a page."""
    shown = {**layer.numbers(), "sheet": vars(pictures.sheet(pictures.to_grey(layer.maps)))}
    if layer.beside is not None:
        ghost, difference = beside_in_grey(layer)
        shown["against"] |= {"sheet": vars(pictures.sheet(ghost)), "difference": vars(pictures.sheet(difference))}
    return shown


def beside_in_grey(layer: SeenLayer) -> tuple[Tensor, Tensor]:
    """The ghost's maps on the original's grey scale, and their difference from the original's, in which 0 is grey."""
    assert layer.beside is not None
    target = layer.maps[layer.beside.original]
    low, high = target.amin((1, 2)), target.amax((1, 2))
    span = high - low
    difference = pictures.to_grey(layer.beside.maps - target, -span, span)
    return pictures.to_grey(layer.beside.maps, low, high), difference


def write_look(
    out: Path,
    layers: Sequence[SeenLayer],
    *,
    title: str,
    image: str,
    photograph: Tensor | None = None,
    others: Sequence[str] = (),
    against: str | None = None,
) -> None:
    """Write the page and the pictures of the first layer.

    Args:
        out: Folder for ``look.html``, ``look.png`` and, with a ghost beside, ``against.png``; each is replaced whole.
        title: Name of the network.
        layers: The layers; the pictures are of the first.
        image: Name of the photograph.
        photograph: Its pixels as the network got them, uint8 ``[3, height, width]``; None leaves them out.
        others: Layers that could be looked at, too; the page names them.
        against: Name of the ghost.
    """
    first = layers[0]
    with replacing(out / PICTURE) as temporary:
        temporary.write_bytes(pictures.png(pairs_picture(first, title)))
    if first.beside is not None:
        with replacing(out / BESIDE) as temporary:
            temporary.write_bytes(pictures.png(beside_picture(first, title)))
    page = render(
        "look.html",
        title=title,
        image=image,
        photograph=None if photograph is None else pictures.photograph(photograph),
        against=against,
        layers=[page_layer(layer) for layer in layers],
        others=[name for name in others if name not in {layer.name for layer in layers}],
        colours=pictures.PAIR_COLOURS,
    )
    with replacing(out / PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")


def pairs_picture(layer: SeenLayer, title: str) -> Figure:
    """The layer's maps, the pairs most similar by 3×3 filters, and curves of the variance explained."""
    d = 3 if 3 in layer.sizes else layer.sizes[-1]
    pairs = [pictures.DrawnPair(p.source, p.target, {e: f.error for e, f in p.filters.items()}) for p in layer.pairs[d]]
    heading = f"{title}, {layer.name}: {len(layer.maps)} maps of {layer.maps.shape[1]}×{layer.maps.shape[2]}"
    ways = {way: curve for way, curve in layer.explained.items() if way in ("dropped", f"{d}×{d} filters")}
    ways["combinations"] = layer.explained["combinations"]
    return pictures.paired_maps(heading, pictures.to_grey(layer.maps), pairs, ways)


def beside_picture(layer: SeenLayer, title: str) -> Figure:
    """Some intrinsic maps and as many ghosts: the original's, the ghost's and the difference."""
    assert layer.beside is not None
    everyone = torch.arange(len(layer.beside.maps))
    shown = everyone[:MAPS_DRAWN]
    marks: list[str | None] = [None] * len(shown)
    if layer.intrinsic is not None:
        first = everyone[layer.intrinsic][: MAPS_DRAWN // 2]
        shown = torch.cat([first, everyone[~layer.intrinsic]])[:MAPS_DRAWN]
        marks = [pictures.COLOURS["original" if layer.intrinsic[place] else "ghost"] for place in shown]
    ghost, difference = (grey[shown] for grey in beside_in_grey(layer))
    original = pictures.to_grey(layer.maps[layer.beside.original[shown]])
    convolved: list[str | None] = [pictures.COLOURS["original"]] * len(shown)
    parts = {"original": (original, convolved), "ghost": (ghost, marks), "difference": (difference, marks)}
    return pictures.beside(f"{title}, {layer.name}: made by convolution in blue, ghosts in orange", parts)
