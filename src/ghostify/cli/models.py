"""`ghostify models`: the networks that are known by name."""

import click

from ghostify.cli.output import json_option, show
from ghostify.model_names import list_detectors, list_models


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the networks and detectors that are known by name."""
    names, detectors = list_models(), list_detectors()
    show({"models": names, "detectors": detectors}, as_json, lambda: print(*names, *detectors, sep="\n"))
