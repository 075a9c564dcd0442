"""`ghostify look`: which maps of a layer are ghosts of which."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from ghostify.cli.opening import Channels, NamedNetwork, channels_for
from ghostify.cli.options import (
    ExistingFile,
    bundle,
    classes_option,
    mean_and_std_options,
    out_option,
    shape_option,
    source_options,
    threads_option,
)
from ghostify.cli.output import json_option, print_table, progress_bars, say, show
from ghostify.data.augment import normalise
from ghostify.data.images import ImageData
from ghostify.data.photograph import SAMPLE, photograph
from ghostify.errors import InputError
from ghostify.jobs.look import SeenLayer, layers_to_pick
from ghostify.jobs.look import look as look_at
from ghostify.needed import refuse_missing


@dataclass(frozen=True)
class Photograph:
    """A photograph as the user names it, and how it is normalised.

    Args:
        image: Its file; None: one that scikit-learn brings.
        mean, std: Those of each channel, in 0..1; None: the network's, else ImageNet's.
    """

    image: Path | None
    mean: Channels
    std: Channels

    @property
    def name(self) -> str:
        return SAMPLE if self.image is None else self.image.name

    def open(self, height: int, width: int) -> Tensor:
        """The photograph, uint8 ``[1, 3, height, width]``."""
        return photograph(self.image, height, width)

    def normalised(self, pixels: Tensor, named: NamedNetwork) -> Tensor:
        """The photograph as the network takes it, ``[1, 3, height, width]``."""
        return normalise(pixels, **channels_for(named, self.mean, self.std, ImageData))


@click.command()
@bundle("named", NamedNetwork, click.argument("model"), source_options, classes_option(), shape_option)
@click.option("--against", help="Network to show beside it: the same network's ghost, a MODEL.")
@bundle(
    "photo",
    Photograph,
    click.option(
        "--image",
        type=ExistingFile(),
        show_default="one that scikit-learn brings",
        help="Photograph to show the network.",
    ),
    mean_and_std_options("the network's, else ImageNet's"),
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    show_default="the ends of the network's stages",
    help="Look at the module of this name, such as layer1.0.conv1, or at all that match a pattern such as 'layer1.*'. "
    "May be repeated.",
)
@threads_option
@out_option("Folder for the page and the pictures.", "look.html", "look.png", "against.png", default=Path("look"))
@json_option
def look(
    named: NamedNetwork, against: str | None, photo: Photograph, layers: tuple[str, ...], out: Path, as_json: bool
) -> None:
    """Show the maps that MODEL's layers make of a photograph, and which of them are nearly copies of others.

    Writes a page to look at, look.html, and the pictures of its first layer. With --against, the maps of
    the ghost stand beside the original's.
    """
    refuse_missing("matplotlib", "jinja2")
    from ghostify.jobs import look_page  # here: drawing and templates are an extra that other verbs spare

    torch.manual_seed(0)
    network = named.open()
    ghost = NamedNetwork(against, factory=named.factory).open() if against is not None else None
    shape = named.shape(network)
    if len(shape) != 3 or shape[0] != 3:
        raise InputError(f"the input shape is {shape}: expected 3 channels, height and width, for a photograph")
    named.checked_shape(network, *([] if ghost is None else [ghost]))
    pixels = photo.open(*shape[1:])
    x = photo.normalised(pixels, named)
    with progress_bars() as progress:
        found = look_at(network, x, layers, against=ghost, progress=progress)
    look_page.write_look(
        out,
        found,
        title=named.model,
        image=photo.name,
        photograph=pixels[0],
        others=layers_to_pick(network, x),
        against=against,
    )
    result: dict[str, Any] = {
        "model": named.model,
        "against": against,
        "image": photo.name,
        "input_shape": shape,
        "layers": [layer.numbers() for layer in found],
    }

    def tables() -> None:
        for layer in found:
            print_layer(layer)
        pages = [out / look_page.PAGE, out / look_page.PICTURE] + (
            [out / look_page.BESIDE] if ghost is not None else []
        )
        say(f"Wrote {', '.join(map(str, pages))}.")

    show(result, as_json, tables)


def print_layer(layer: SeenLayer) -> None:
    sizes = layer.sizes
    size = 3 if 3 in sizes else sizes[-1]
    count, height, width = layer.maps.shape
    constant = int(layer.constant.sum())
    print(f"{layer.name}: {count} maps of {height}×{width}" + (f", {constant} of them constant" if constant else ""))
    headings = (f"most similar by {size}×{size}", *(f"error of\n{d}×{d}, %" for d in sizes))
    rows = [
        (f"{pair.source} → {pair.target}", *(f"{100 * pair.filters[d].error:.2f}" for d in sizes))
        for pair in layer.pairs[size]
    ]
    print_table(headings, rows)
    shares = [f"{way} {100 * share:.1f} %" for way, share in layer.explained_by_half().items()]
    say(f"Share of the variance of all maps that half of them explain: {', '.join(shares)}.")
    if layer.beside is not None:
        median, most = 100 * float(layer.beside.error.median()), 100 * float(layer.beside.error.max())
        pairs = f"The ghost's {len(layer.beside.maps)} maps, paired by {layer.beside.paired_by}"
        say(f"{pairs}: their error is {median:.1f} % of a map's variance in the median, at most {most:.1f} %.")
    print()
