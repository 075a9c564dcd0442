"""Where a benchmark trains, in what numbers, in what order in memory, and whether recorded."""

import argparse
from dataclasses import replace

from ghostify.jobs.recipe import PRECISIONS, Recipe


def add_arithmetic(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="of the training")
    parser.add_argument("--precision", choices=PRECISIONS, default=Recipe.precision)
    parser.add_argument("--channels-first", action="store_true", help="order of the maps in memory")
    parser.add_argument("--cuda-graph", action="store_true", help="replay a step that was recorded")


def in_arithmetic(recipe: Recipe, arguments: argparse.Namespace) -> Recipe:
    """The recipe as the command line wants it computed."""
    return replace(
        recipe,
        precision=arguments.precision,
        channels_last=not arguments.channels_first,
        cuda_graph=arguments.cuda_graph,
    )
