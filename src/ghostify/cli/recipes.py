"""`ghostify recipes`: the published rows that `train --recipe` trains for."""

import dataclasses

import click

from ghostify.cli.output import json_option, print_table, say, show
from ghostify.jobs.recipes import ROWS, Row


@click.command()
@json_option
def recipes(as_json: bool) -> None:
    """List the rows that `ghostify train --recipe NAME` trains for, and what each should reach."""
    show({"recipes": {name: dataclasses.asdict(row) for name, row in ROWS.items()}}, as_json, print_recipes)


def print_recipes() -> None:
    headings = ("recipe", "data", "epochs", "images\na step", "lr", "top-1, %", "top-5, %")
    print_table(headings, [recipe_row(name, row) for name, row in ROWS.items()], left=2)
    for source in dict.fromkeys(row.source for row in ROWS.values()):
        say(f"{source}: {', '.join(name for name, row in ROWS.items() if row.source == source)}.", "  ")


def recipe_row(name: str, row: Row) -> tuple[str, ...]:
    recipe = row.recipe
    step, lr = recipe.batch_size * recipe.accumulate, f"{recipe.lr:g}"
    if recipe.lr_batch_size:
        lr += f" per {recipe.lr_batch_size}"
    top5 = "–" if row.top5 is None else f"{row.top5}"
    return name, row.data, str(recipe.epochs), str(step), lr, f"{row.top1}", top5
