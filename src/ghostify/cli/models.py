"""`ghostify models`: the networks that are known by name."""

import click

from ghostify.cli.options import json_option
from ghostify.cli.output import show
from ghostify.models.registry import list_models


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the networks that are known by name."""
    names = list_models()
    show({"models": names}, as_json, lambda: print(*names, sep="\n"))
