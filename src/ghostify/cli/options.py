"""Options that several verbs share, and what they are read into."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import click
import torch

from ghostify.atomic import check_writable
from ghostify.changes.ratio import GhostRatio
from ghostify.cli.opening import NamedImages
from ghostify.cli.spelling import BY_USER
from ghostify.fitting.calibration import FEWEST_IMAGES
from ghostify.inference.engines import PRECISIONS as TIMED_PRECISIONS
from ghostify.jobs.recipe import LAST_SEED, OPTIMIZERS, PRECISIONS, SCHEDULES, Recipe
from ghostify.jobs.training_folder import FILES
from ghostify.layers.ghost_conv import CHEAP_KINDS, Cheap
from ghostify.needed import refuse_missing
from ghostify.transform.reconstruct import EFFORTS, Effort

SEEDS = click.IntRange(0, LAST_SEED)
# With many thousands OpenMP ends the process, and so many workers are more than a machine runs.
MOST_THREADS, MOST_WORKERS = 1024, 256
# Of more, torch and Pillow compute no sizes.
MOST_PIXELS, MOST_COUNT = 100_000, 2**31 - 1
PIXELS, AT_LEAST_1 = click.IntRange(1, MOST_PIXELS), click.IntRange(1, MOST_COUNT)
THREADS, WORKERS = click.IntRange(1, MOST_THREADS), click.IntRange(0, MOST_WORKERS)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Number(click.FloatRange):
    """A finite number, in a range where there is one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class ExistingFile(click.Path):
    """A file that is there."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if not path.is_file():
            self.fail(f"{path} is not there: expected a file", param, ctx)
        return path


SHARE = Number(0, 1)
ABOVE_0 = Number(0, min_open=True)


def shape(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        sizes = tuple(int(size) for size in value.replace("x", ",").split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected numbers such as 3,224,224") from None
    if min(sizes) < 1:
        raise click.BadParameter(f"{value!r}: expected positive whole numbers such as 3,224,224")
    return sizes


def odd(context: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    if value is not None and value % 2 == 0:
        raise click.BadParameter(f"{value}: expected an odd whole number, such as 1, 3 or 5")
    return value


def enough_images(context: click.Context, parameter: click.Parameter, value: int) -> int:
    if value < FEWEST_IMAGES:
        raise click.BadParameter(f"{value} images: expected at least {FEWEST_IMAGES}, better some hundreds")
    return value


def tensorboard_there(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
    if value:
        refuse_missing("tensorboard")
    return value


def numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Some numbers with commas between."""
    try:
        return None if value is None else tuple(float(number) for number in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected numbers such as 0.5,0.5,0.5") from None


def channels(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    found = numbers(context, parameter, value)
    if found is not None and not (len(found) == 3 and all(map(math.isfinite, found))):
        raise click.BadParameter(f"{value!r}: expected three numbers such as 0.5,0.5,0.5")
    return found


def deviations(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Three numbers, too, by which images are divided."""
    found = channels(context, parameter, value)
    if found is not None and min(found) <= 0:
        raise click.BadParameter(f"{value!r}: expected three numbers above 0 such as 0.5,0.5,0.5")
    return found


def set_threads(context: click.Context, parameter: click.Parameter, value: int | None) -> None:
    if value is not None:
        torch.set_num_threads(value)


def ready_device(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if value == "cuda" and not torch.cuda.is_available():
        raise click.BadParameter("there is no CUDA device here: expected cpu")
    return value


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator, in this order in the help."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def bundle(name: str, kind: Callable[..., Any], *options: Decorator) -> Decorator:
    """Several options as one object: the verb's parameter ``name`` is ``kind`` called with what they were set to.

    Example:
        >>> @click.command()
        ... @bundle("size", complex, click.option("--real", default=1.0), click.option("--imag", default=2.0))
        ... def verb(size: complex) -> None:
        ...     print(size)
        >>> verb.main(["--imag", "3"], standalone_mode=False)
        (1+3j)
    """

    def add(verb: Callable[..., Any]) -> Callable[..., Any]:
        before = len(getattr(verb, "__click_params__", []))

        @wraps(verb)
        def with_object(**values: Any) -> Any:
            values[name] = kind(**{own: values.pop(own) for own in names})
            return verb(**values)

        command = together(*options)(with_object)
        parameters: list[click.Parameter] = getattr(command, "__click_params__", [])
        names = [str(parameter.name) for parameter in parameters[before:] if parameter.expose_value]
        return command

    return add


@dataclass(frozen=True)
class GhostOptions:
    """The ghosts of a convolution, see ``GhostConv2d``; None where the user did not say."""

    ratio: int | None
    cheap_kernel_size: int | None
    cheap: Cheap | None


@dataclass(frozen=True)
class Calibration:
    """How a trained network's ghost is calibrated.

    Args:
        image_count: Images for it.
        effort: See ``convert``.
        photographs: Folder of photographs without classes; None: training images.
    """

    image_count: int
    effort: Effort
    photographs: Path | None = None


@dataclass(frozen=True)
class Timing:
    """Where networks are timed, and on how many images at once.

    Args:
        engine: None where the verb chooses.
    """

    engine: Any
    batch_size: int
    threads: int = field(default_factory=torch.get_num_threads)  # which ``threads_option`` has set


@dataclass(frozen=True)
class TrainingOutput:
    """Where a training writes, whether it goes on with what is there, and whether it logs for TensorBoard."""

    out: Path
    resume: bool
    tensorboard: bool


shape_option = click.option(
    "--input-shape",
    callback=shape,
    show_default="the network's own",
    help="Channels, height and width of one input, such as 3,224,224.",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    callback=ready_device,
    help="Processor to compute on; auto is the GPU where there is one.",
)
skip_option = click.option(
    "--skip",
    multiple=True,
    help="Leave the module of this name, or all that match a pattern such as 'layer1.*'. May be repeated.",
)
hints_option = click.option(
    "--hints",
    is_flag=True,
    help="Distil the teacher's features at the ends of blocks and its logits, instead of softened answers.",
)
factory_option = click.option(
    "--factory", help="Builder of a file's network where that is your own code, as package.module:factory."
)
layers_option = click.option(
    "--layers", "all_layers", is_flag=True, help="Print every layer, and all that is known of it."
)
weights_option = click.option(
    "--weights",
    type=ExistingFile(),
    help="State dict to load into the network: safetensors, or a file of torch.save.",
)
new_head_option = click.option(
    "--new-head", is_flag=True, help="Leave the last layer out of --weights, for other classes than theirs."
)
source_options = together(weights_option, factory_option)
hold_out_help = "Share of the training images held out to validate each epoch."
threads_help = "CPU threads to compute with."
threads_option = click.option(
    "--threads",
    type=THREADS,
    callback=set_threads,
    expose_value=False,
    show_default="all cores",
    help=threads_help,
)
timed_threads_option = click.option("--threads", type=THREADS, default=1, help=threads_help)
workers_option = click.option("--workers", type=WORKERS, default=2, help="Processes that decode images of a folder.")
machine_options = together(device_option, threads_option, workers_option)
builder_options = together(
    click.option(
        "--ratio",
        type=AT_LEAST_1,
        show_default="the builder's",
        help="Ratio s of a ghost network's builder: one map in s is made by convolution.",
    ),
    click.option(
        "--cheap-kernel-size",
        type=AT_LEAST_1,
        callback=odd,
        show_default="the builder's",
        help="Kernel size d of that builder's cheap filters, odd.",
    ),
)


def classes_option(default: str = "the builder's") -> Decorator:
    return click.option(
        "--num-classes",
        type=AT_LEAST_1,
        show_default=default,
        help="Number of classes, which are the network's outputs.",
    )


def hold_out_option(share: float) -> Decorator:
    return click.option("--hold-out", type=Number(0, 0.5), default=share, help=hold_out_help)


def mean_and_std_options(default: str, mean: str = "mean", std: str = "std") -> Decorator:
    return together(
        click.option(
            "--mean",
            mean,
            callback=channels,
            show_default=default,
            help="Mean of each channel in 0..1, such as 0.485,0.456,0.406; images are normalised by it.",
        ),
        click.option(
            "--std",
            std,
            callback=deviations,
            show_default=default,
            help="Standard deviation of each channel in 0..1, such as 0.229,0.224,0.225.",
        ),
    )


def seed_option(what: str) -> Decorator:
    return click.option("--seed", type=SEEDS, default=0, help=f"Seed of {what}.")


def batch_size_option(default: int, what: str) -> Decorator:
    return click.option("--batch-size", type=AT_LEAST_1, default=default, help=what)


def effort_option(default: str, what: str) -> Decorator:
    return click.option("--effort", type=click.Choice(EFFORTS), default=default, help=what)


def ghost_options(cheap: str | None) -> Decorator:
    """Options that ``GhostOptions`` is made of.

    Args:
        cheap: The verb's own default of --cheap; None where the verb has to know whether any of them was given.
    """
    known = cheap is not None
    return together(
        click.option(
            "--ratio",
            type=AT_LEAST_1,
            default=2 if known else None,
            show_default=known or "2, where ghosts are made",
            help="Ratio s of the ghosts: one map in s is made by convolution.",
        ),
        click.option(
            "--cheap-kernel-size",
            type=AT_LEAST_1,
            callback=odd,
            default=3 if known else None,
            show_default=known or "3",
            help="Kernel size d of depthwise cheap filters, odd.",
        ),
        click.option(
            "--cheap",
            type=click.Choice(CHEAP_KINDS),
            default=cheap,
            show_default=known or GhostRatio.cheap,
            help="How ghosts are made of the other maps: by d×d depthwise filters, or by 1×1 combinations.",
        ),
    )


def calibration_options(effort: str) -> Decorator:
    """Options that ``Calibration`` is made of."""
    return together(
        click.option(
            "--images",
            "image_count",
            type=int,
            callback=enough_images,
            default=1024,
            help="Training images of --data to calibrate on, at least 32.",
        ),
        effort_option(effort, "Fit layers in closed form (fast), or let blocks learn their outputs, too (refined)."),
    )


def data_options(
    default: str | None = None, required: bool = True, hold_out: float | None = None, threads: bool = True
) -> Decorator:
    """``NamedImages`` as the verb's parameter ``images``; ``--threads`` acts at once.

    Args:
        threads: The verb has these threads to compute with, and none of its own.
    """
    # A default that is given counts as set, also where it is None.
    data: dict[str, Any] = {"required": required} if default is None else {"default": default}
    options: list[Decorator] = [
        click.option(
            "--data",
            "data_name",
            **data,
            help="DATA to read, such as npz:cifar10.npz or imagefolder:DIR; see `ghostify --help`.",
        ),
        click.option(
            "--image-size",
            type=PIXELS,
            show_default="the network's own",
            help="Side to which images of a folder are brought, pixels.",
        ),
        mean_and_std_options("the network's, else ImageNet's"),
        device_option,
        *([threads_option] if threads else []),
        workers_option,
    ]
    if hold_out is not None:
        options.append(hold_out_option(hold_out))
    return bundle("images", NamedImages, *options)


def engine_option(engines: tuple[str, ...], default: str | None, shown: str | None = None) -> Decorator:
    """The engine that times.

    Args:
        default: None where the verb chooses.
        shown: How it does so, for the help.
    """
    how: dict[str, Any] = {"show_default": shown} if default is None else {"default": default}
    return click.option(
        "--engine", type=click.Choice(engines), **how, help="Engine that runs the networks to be timed."
    )


class OneOrTwoPrecisions(click.ParamType[tuple[str, str]]):
    """A precision for both networks, or one for each, as fp32,int8."""

    name = "precision"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join(TIMED_PRECISIONS)}][,...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        named = value.split(",")
        if len(named) > 2 or not set(named) <= set(TIMED_PRECISIONS):
            self.fail(f"{value!r} is not one of {', '.join(TIMED_PRECISIONS)}, nor two of them, such as fp32,int8")
        return named[0], named[-1]


precision_option = click.option(
    "--precision",
    type=OneOrTwoPrecisions(),
    default="fp32",
    help="Precision of both networks, or of A and of B, such as fp32,int8; a file in int8 stays so.",
)


RECIPE_HELP = {
    "epochs": "Passes over the training images.",
    "batch_size": "Images per forward pass and process.",
    "accumulate": "Forward passes whose gradients make one step of the optimizer.",
    "optimizer": "Optimizer: SGD with Nesterov momentum 0.9, or AdamW.",
    "lr": "Peak learning rate.",
    "lr_batch_size": "Images per step that --lr is for, such as 256: it is scaled in proportion. 0 leaves it as it is.",
    "weight_decay": "Weight decay of weights; biases and BatchNorm have none.",
    "schedule": "Learning rate over the epochs: cosine down to 0, or a tenth after 50, 75 and 94 % of them (steps), "
    "after each third (thirds), or after 8 and 11 twelfths (1x).",
    "warmup_epochs": "Epochs, or parts of one such as 0.5, in which the learning rate rises from 0.",
    "label_smoothing": "Share of the target that is spread over all classes, such as 0.1.",
    "ema": "Share of all steps that a moving average of the weights remembers, such as 0.02; 0 for none.",
    "augment": "Crop and mirror images at random.",
    "color_jitter": "How far brightness, contrast and saturation of a folder's images change at random, such as 0.4.",
    "rand_augment": "Change each of a folder's images at random, by RandAugment.",
    "precision": "Arithmetic of the training; auto is bf16 where the processor computes in it.",
    "channels_last": "Keep maps in memory with their channels last.",
    "cuda_graph": "Record a step on the GPU once and replay it, which is faster for small networks.",
    "freeze_norm": "Hold BatchNorm's statistics, as for a trained network that has them folded away.",
    "seed": "Seed of weights, order and augmentation.",
}


class OnlyWith(click.Option):
    """An option that does nothing without another one, or something else; ``Sectioned`` shows those of one together.

    Args:
        only_with: The other option or the condition, in words.
    """

    def __init__(self, *names: Any, only_with: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.only_with = only_with

    @property
    def opening(self) -> str:
        """The beginning of its sentence."""
        return f"With {self.only_with}, "


class Sectioned(click.Command):
    """A verb whose help has the options that do nothing without something under a heading of their own, at the end."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context)
            if record is None:
                continue
            if isinstance(parameter, OnlyWith):
                text = record[1].removeprefix(parameter.opening)
                title = f"Only with {parameter.only_with}"
                sections.setdefault(title, []).append((record[0], f"{text[0].upper()}{text[1:]}"))
            else:
                sections["Options"].append(record)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def recipe_options(*names: str, only_with: str = "", **defaults: Any) -> Decorator:
    """One option per field of ``Recipe``, or those named only, with a verb's own defaults.

    Args:
        only_with: The option or the condition without which they do nothing, in words.
    """
    choices = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}
    kinds = {"seed": SEEDS} | {name: click.Choice(names) for name, names in choices.items()}

    def option(setting: dataclasses.Field[Any]) -> Decorator:
        flag, default = setting.name.replace("_", "-"), defaults.get(setting.name, setting.default)
        name = f"--{flag}/--no-{flag}" if isinstance(default, bool) else f"--{flag}"
        kind = kinds.get(setting.name, type(default))
        text = RECIPE_HELP[setting.name]
        if not only_with:
            return click.option(name, type=kind, default=default, help=text)
        text = f"With {only_with}, {text[0].lower()}{text[1:]}"
        return click.option(name, cls=OnlyWith, only_with=only_with, type=kind, default=default, help=text)

    return together(*(option(field) for field in dataclasses.fields(Recipe) if field.name in names or not names))


def changed_by_user(row: Recipe, recipe: Recipe) -> Recipe:
    """A published row's recipe, but for the settings that the user set in another."""
    context = click.get_current_context()
    names = [field.name for field in dataclasses.fields(Recipe)]
    own = {name: getattr(recipe, name) for name in names if context.get_parameter_source(name) in BY_USER}
    return dataclasses.replace(row, **own)


tensorboard_option = click.option(
    "--tensorboard", is_flag=True, callback=tensorboard_there, help="Log for TensorBoard, too."
)
resume_option = click.option("--resume", is_flag=True, help="Go on with the training that began in --out.")


def out_option(text: str, *files: str, default: Path | None = None, required: bool = True) -> Decorator:
    """The folder for a verb's results, refused where these files cannot be made in it."""

    def writable(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
        if value is not None:
            try:
                check_writable(value, *files)
            except OSError as error:
                raise click.BadParameter(f"{error.filename or value}: {error.strerror}") from error
        return value

    settings: dict[str, Any] = {"required": required} if default is None else {"default": default}
    return click.option("--out", type=Path, callback=writable, help=text, **settings)


def training_output(files: str) -> Decorator:
    return bundle(
        "output",
        TrainingOutput,
        out_option(f"Folder for {files}.", *FILES),
        resume_option,
        tensorboard_option,
    )
