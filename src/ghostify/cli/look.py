"""`ghostify look`: which maps of a layer are ghosts of which."""

from pathlib import Path
from typing import Any

import click
import torch

from ghostify.cli.opening import Channels, channels_of, checked_shape, extra_of, open_given, own_shape
from ghostify.cli.options import (
    channels,
    classes_option,
    deviations,
    json_option,
    set_threads,
    shape_option,
    source_options,
)
from ghostify.cli.output import print_table, progress_bars, show
from ghostify.data.augment import normalise
from ghostify.data.images import ImageData
from ghostify.data.photograph import SAMPLE, photograph
from ghostify.errors import InputError
from ghostify.jobs.look import SeenLayer
from ghostify.jobs.look import look as look_at


@click.command()
@click.argument("model")
@source_options
@classes_option
@click.option("--against", help="The same network's ghost: a MODEL.")
@click.option("--image", type=Path, help="A photograph; default: one that scikit-learn brings.")
@click.option("--layer", "layers", multiple=True, help="Module name, may be given again; default: ends of its stages.")
@shape_option
@click.option("--mean", callback=channels, help="Of the channels in 0..1; default: the file's, else ImageNet's.")
@click.option("--std", callback=deviations, help="Likewise.")
@click.option("--threads", type=click.IntRange(1), callback=set_threads, expose_value=False, help="CPU threads.")
@click.option("--out", type=Path, default=Path("look"), show_default=True, help="Folder for the page and the pictures.")
@json_option
def look(
    model: str,
    weights: Path | None,
    factory: str | None,
    num_classes: int | None,
    against: str | None,
    image: Path | None,
    layers: tuple[str, ...],
    input_shape: tuple[int, ...] | None,
    mean: Channels,
    std: Channels,
    out: Path,
    as_json: bool,
) -> None:
    """Show the maps that MODEL's layers make of a photograph, and which of them are nearly copies of others.

    Writes a page to look at, look.html, and the pictures of its first layer. With --against, the maps of
    the ghost stand beside the original's.
    """
    from ghostify.jobs import look_page  # here: drawing and templates are an extra that other verbs spare

    torch.manual_seed(0)
    network = open_given(model, {"weights": weights, "factory": factory, "num_classes": num_classes})
    ghost = open_given(against, {"factory": factory}) if against is not None else None
    shape = input_shape or own_shape(model, network)
    if len(shape) != 3 or shape[0] != 3:
        raise InputError(f"the input shape is {shape}: expected 3 channels, height and width, for a photograph")
    checked_shape(shape, model, *(seen for seen in (network, ghost) if seen is not None))
    known = {} if mean and std else channels_of(model, extra_of(model))
    pixels = photograph(image, shape[1], shape[2])
    x = normalise(pixels, mean or known.get("mean", ImageData.mean), std or known.get("std", ImageData.std))
    with progress_bars() as progress:
        found = look_at(network, x, layers, against=ghost, progress=progress)
    photo = SAMPLE if image is None else image.name
    look_page.write_look(out, found, title=model, image=photo, against=against)
    result: dict[str, Any] = {
        "model": model,
        "against": against,
        "image": photo,
        "input_shape": shape,
        "layers": [layer.numbers() for layer in found],
    }

    def tables() -> None:
        for layer in found:
            print_layer(layer)
        pages = [out / look_page.PAGE, out / look_page.PICTURE] + (
            [out / look_page.BESIDE] if ghost is not None else []
        )
        print(f"Wrote {', '.join(map(str, pages))}.")

    show(result, as_json, tables)


def print_layer(layer: SeenLayer) -> None:
    sizes = layer.sizes
    size = 3 if 3 in sizes else sizes[-1]
    count, height, width = layer.maps.shape
    constant = int(layer.constant.sum())
    print(f"{layer.name}: {count} maps of {height}×{width}" + (f", {constant} of them constant" if constant else ""))
    headings = (f"most similar by {size}×{size}", *(f"left by\n{d}×{d}, %" for d in sizes))
    rows = [
        (f"{pair.source} → {pair.target}", *(f"{100 * pair.filters[d].error:.2f}" for d in sizes))
        for pair in layer.pairs[size]
    ]
    print_table(headings, rows)
    shares = [f"{way} {100 * share:.1f} %" for way, share in layer.explained_by_half().items()]
    print(f"Half of the maps explain of all: {', '.join(shares)}.")
    if layer.beside is not None:
        median, most = 100 * float(layer.beside.error.median()), 100 * float(layer.beside.error.max())
        counted = f"The ghost's {len(layer.beside.maps)} maps, paired by {layer.beside.paired_by}"
        print(f"{counted}: median {median:.1f} % of a map's variance missed, at most {most:.1f} %.")
    print()
