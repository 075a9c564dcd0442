"""Options that several verbs share, and what they are read into."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import torch
from click.core import ParameterSource

from ghostify.jobs.recipe import LAST_SEED, OPTIMIZERS, PRECISIONS, SCHEDULES, Recipe
from ghostify.layers.ghost_conv import CHEAP_KINDS
from ghostify.transform.reconstruct import EFFORTS

# Where an option's value is from when the user gave it.
SAID = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
SEEDS = click.IntRange(0, LAST_SEED)
Command = TypeVar("Command", bound=Callable[..., Any])


def shape(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    try:
        return tuple(int(size) for size in value.replace("x", ",").split(",")) if value else None
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected numbers such as 3,224,224") from None


def channels(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(number) for number in value.split(",")) if value else None
    except ValueError:
        numbers = ()
    if numbers is not None and not (len(numbers) == 3 and all(map(math.isfinite, numbers))):
        raise click.BadParameter(f"{value!r}: expected three numbers such as 0.5,0.5,0.5")
    return numbers


def deviations(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Of the channels, too, and images are divided by them."""
    numbers = channels(context, parameter, value)
    if numbers is not None and min(numbers) <= 0:
        raise click.BadParameter(f"{value!r}: expected three numbers above 0 such as 0.5,0.5,0.5")
    return numbers


def set_threads(context: click.Context, parameter: click.Parameter, value: int | None) -> None:
    if value is not None:
        torch.set_num_threads(value)


def ready_device(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if value == "cuda" and not torch.cuda.is_available():
        raise click.BadParameter("there is no CUDA device here: expected cpu")
    return value


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in this order in the help."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
shape_option = click.option("--input-shape", callback=shape, help="Such as 3,224,224; default: the network's own.")
classes_option = click.option("--num-classes", type=click.IntRange(1), help="Outputs of the network.")
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", callback=ready_device, show_default=True
)
skip_option = click.option("--skip", multiple=True, help="Module name or pattern to leave; may be given again.")
hints_option = click.option(
    "--hints", is_flag=True, help="Learn the teacher's maps at the ends of blocks and its logits, not softened answers."
)
factory_option = click.option("--factory", help="For a file built by code of yours: its package.module:factory.")
source_options = together(
    click.option("--weights", type=Path, help="State dict: .safetensors, .pt, .pth or .th."), factory_option
)


threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    callback=set_threads,
    expose_value=False,
    help="CPU threads; default: all cores.",
)
machine_options = together(
    device_option,
    threads_option,
    click.option(
        "--workers",
        type=click.IntRange(0),
        default=2,
        show_default=True,
        help="Processes that decode images of a folder.",
    ),
)


def seed_option(of_what: str) -> Callable[[Command], Command]:
    return click.option("--seed", type=SEEDS, default=0, show_default=True, help=of_what)


def cheap_option(default: str) -> Callable[[Command], Command]:
    return click.option("--cheap", type=click.Choice(CHEAP_KINDS), default=default, show_default=True)


def effort_option(default: str, of_what: str) -> Callable[[Command], Command]:
    return click.option("--effort", type=click.Choice(EFFORTS), default=default, show_default=True, help=of_what)


def calibration_options(effort: str) -> Callable[[Command], Command]:
    """On how many images a trained network's ghost is calibrated, and how well."""
    return together(
        click.option(
            "--images", type=int, default=1024, show_default=True, help="Training images of --data to calibrate on."
        ),
        effort_option(effort, "Of the calibration."),
    )


def ghost_options(
    ratio: int | None = None, cheap_kernel_size: int | None = None, ratio_type: type = int
) -> Callable[[Command], Command]:
    """``--ratio`` and ``--cheap-kernel-size``; without a default the network's builder has its own."""
    return together(
        click.option("--ratio", type=ratio_type, default=ratio, help="s: one map in s is a convolution's."),
        click.option("--cheap-kernel-size", type=int, default=cheap_kernel_size, help="d of the cheap d×d filters."),
    )


def data_options(default: str | None = None, required: bool = True) -> Callable[[Command], Command]:
    """Which images, and with what to read and compute them; ``--threads`` acts at once."""
    return together(
        click.option(
            "--data",
            "data_name",
            default=default,
            required=required and default is None,
            show_default=True,
            help="DATA, see `ghostify --help`.",
        ),
        click.option(
            "--image-size",
            type=click.IntRange(1),
            help="Side of a folder's images; default: the network file's, else 224.",
        ),
        click.option(
            "--mean", callback=channels, help="Of the channels in 0..1; default: the network file's, else ImageNet's."
        ),
        click.option("--std", callback=deviations, help="Likewise."),
        machine_options,
    )


def recipe_options(*names: str, **defaults: Any) -> Callable[[Command], Command]:
    """One option per field of ``Recipe``, or those named only, with a verb's own defaults."""
    choices = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}
    kinds = {"seed": SEEDS} | {name: click.Choice(names) for name, names in choices.items()}

    def option(field: dataclasses.Field[Any]) -> Callable[[Command], Command]:
        flag, default = field.name.replace("_", "-"), defaults.get(field.name, field.default)
        name = f"--{flag}/--no-{flag}" if isinstance(default, bool) else f"--{flag}"
        return click.option(name, type=kinds.get(field.name, type(default)), default=default, show_default=True)

    return together(*(option(field) for field in dataclasses.fields(Recipe) if field.name in names or not names))


def training_options(data: str | None = None, **defaults: Any) -> Callable[[Command], Command]:
    """All that says what is trained on what and how, and whether to go on with it."""
    return together(
        data_options(data),
        source_options,
        click.option("--new-head", is_flag=True, help="Leave the last layer out of --weights: for other classes."),
        recipe_options(**defaults),
        click.option(
            "--hold-out", type=float, default=0.1, show_default=True, help="Share of train held out to watch it."
        ),
        click.option("--resume", is_flag=True, help="Go on with what began in --out."),
    )


def take_recipe(options: dict[str, Any], row: Recipe | None = None) -> Recipe:
    """The recipe among a verb's options, which are taken out of them; of a published row but for what was given."""
    given = {field.name: options.pop(field.name) for field in dataclasses.fields(Recipe) if field.name in options}
    if row is None:
        return Recipe(**given)
    context = click.get_current_context()
    said = {name: value for name, value in given.items() if context.get_parameter_source(name) in SAID}
    return dataclasses.replace(row, **said)
