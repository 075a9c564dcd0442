"""`ghostify convert`: a network's convolutions become ghosts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
import torch

from ghostify.atomic import replacing
from ghostify.cli.opening import extra_of, open_given, own_shape
from ghostify.cli.options import cheap_option, classes_option, ghost_options, json_option, shape_option, source_options
from ghostify.cli.output import print_table, show
from ghostify.measure.count import count
from ghostify.network_file import save
from ghostify.transform import convert as convert_network


@click.command()
@click.argument("model")
@source_options
@classes_option
@ghost_options(2, 3)
@cheap_option
@click.option("--skip", multiple=True, help="Module name or pattern to leave; may be given again.")
@shape_option
@click.option("--out", type=Path, required=True, help="Folder for ghost.safetensors and layers.json.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the new filters.")
@json_option
def convert(
    model: str,
    ratio: int,
    cheap_kernel_size: int,
    cheap: Any,
    skip: tuple[str, ...],
    input_shape: tuple[int, ...] | None,
    out: Path,
    seed: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Replace the convolutions of MODEL by ghosts; the result must be trained."""
    torch.manual_seed(seed)
    network = open_given(model, options)
    shape = input_shape or own_shape(network)
    conversion = convert_network(
        network, ratio=ratio, cheap_kernel_size=cheap_kernel_size, cheap=cheap, skip=skip, input_shape=shape
    )
    before, after = count(network, shape), count(conversion.model, shape)
    save(conversion.model, out / "ghost.safetensors", extra=extra_of(model))
    layers = [dataclasses.asdict(layer) for layer in conversion.layers]
    with replacing(out / "layers.json") as temporary:
        temporary.write_text(json.dumps(layers, indent=2) + "\n")
    result = {
        "model": model,
        "out": str(out / "ghost.safetensors"),
        "replaced": conversion.replaced,
        "macs_before": before.macs,
        "macs_after": after.macs,
        "params_before": before.params,
        "params_after": after.params,
        "layers": layers,
    }

    def tables() -> None:
        rows = [
            (r.name, "ghost" if r.replaced else f"left: {r.reason}", f"{r.macs_before:,}", f"{r.macs_after:,}")
            for r in conversion.layers
        ]
        print_table(("convolution", "now", "MACs before", "after"), rows, left=2)
        print(
            f"{conversion.replaced} of {len(rows)} convolutions are ghosts; MACs {before.macs / 1e6:.1f} M → "
            f"{after.macs / 1e6:.1f} M, parameters {before.params / 1e6:.2f} M → {after.params / 1e6:.2f} M; "
            f"wrote {out / 'ghost.safetensors'}"
        )

    show(result, as_json, tables)
