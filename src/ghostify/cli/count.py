"""`ghostify count`: multiply-adds and parameters."""

import dataclasses

import click

from ghostify.cli.opening import NamedNetwork
from ghostify.cli.options import builder_options, bundle, classes_option, shape_option, source_options
from ghostify.cli.output import json_option, print_table, say, show, size
from ghostify.measure.count import count as count_network
from ghostify.plain_part import parts_of


@click.command()
@bundle("named", NamedNetwork, click.argument("model"), source_options, classes_option(), builder_options, shape_option)
@click.option("--layers", "with_layers", is_flag=True, help="Print every layer.")
@json_option
def count(named: NamedNetwork, with_layers: bool, as_json: bool) -> None:
    """Count multiply-adds (MACs) and parameters of MODEL; of a detector for the largest image, and part by part."""
    network = named.open()
    input_shape = named.shape(network)
    counted = count_network(network, input_shape)
    parts = {
        part: dict(zip(("macs", "params"), counted.of(name), strict=True)) for part, name in parts_of(network).items()
    }
    result = {"model": named.model, "input_shape": input_shape, **dataclasses.asdict(counted)}
    if parts:
        result["parts"] = parts

    def tables() -> None:
        if with_layers:
            layers = [(r.name, r.kind, f"{r.macs:,}", f"{r.params:,}", size(r.output_shape)) for r in counted.layers]
            print_table(("layer", "kind", "MACs", "parameters", "output"), layers, left=2)
        rows = [(named.model, size(input_shape), counted.macs, counted.params)]
        rows += [(part, "", found["macs"], found["params"]) for part, found in parts.items()]
        print_table(
            ("network", "input", "MACs", "parameters"),
            [(name, shape, f"{macs / 1e6:,.2f} M", f"{params / 1e6:,.3f} M") for name, shape, macs, params in rows],
        )
        if counted.unknown:
            unknown = ", ".join(f"{name} ({n}×)" for name, n in counted.unknown.items())
            say(f"Not counted, as no formula is known: {unknown}")

    show(result, as_json, tables)
