"""The command line: one verb, one library call. The only file that prints."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

import ghostify
from ghostify.atomic import replacing
from ghostify.data import ImageData, load_data
from ghostify.errors import InputError
from ghostify.jobs.evaluate import evaluate
from ghostify.jobs.train import OPTIMIZERS, PRECISIONS, SCHEDULES, Recipe, train
from ghostify.layers.ghost_conv import CHEAP_KINDS
from ghostify.measure.environment import describe_environment
from ghostify.measure.latency import ENGINES
from ghostify.models.registry import known_origin
from ghostify.network_file import open_network, read_extra, save

Command = TypeVar("Command", bound=Callable[..., Any])

INTERRUPTED = 130
BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status: 0 done, 2 bad input, 130 interrupted."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # for package.module:factory, as `python -m` would
    try:
        cli.main(args=arguments, prog_name="ghostify", standalone_mode=False)
    except (InputError, click.ClickException) as error:
        return refuse(error.format_message() if isinstance(error, click.ClickException) else str(error))
    except OSError as error:
        return refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ModuleNotFoundError as error:
        if error.name not in {"matplotlib", "jinja2", "torch_pruning"}:
            raise
        return refuse(f"this verb needs {error.name}: pip install 'ghostify[run]'")
    except (KeyboardInterrupt, click.Abort):
        print("ghostify: interrupted; what was finished is kept", file=sys.stderr)
        return INTERRUPTED
    return 0


def refuse(message: str) -> int:
    """One line on standard error; of an error that a worker process passed on, its last."""
    lines = [line for line in message.strip().splitlines() if line.strip()]
    line = lines[-1].removeprefix("ghostify.errors.InputError: ") if "Traceback" in message else " ".join(lines)
    print(f"ghostify: {line}", file=sys.stderr)
    return BAD_INPUT


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ghostify.__version__)
def cli() -> None:
    """Make a convolutional network faster by ghost maps, and measure what it costs.

    MODEL is a name from `ghostify models`, torchvision:NAME, timm:NAME, package.module:factory, or a file
    that ghostify wrote. DATA is digits, cifar10:DIR, npz:FILE, imagefolder:DIR or imagenet:DIR.
    """


# Options that several verbs share.


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
    if numbers is not None and len(numbers) != 3:
        raise click.BadParameter(f"{value!r}: expected three numbers such as 0.5,0.5,0.5")
    return numbers


def ready_threads(context: click.Context, parameter: click.Parameter, value: int | None) -> int:
    if value is not None:
        torch.set_num_threads(value)
    return torch.get_num_threads()


def ready_device(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if value == "cuda" and not torch.cuda.is_available():
        raise click.BadParameter("there is no CUDA device here: expected cpu")
    return value


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
weights_option = click.option("--weights", type=Path, help="State dict: .safetensors, .pt, .pth or .th.")
factory_option = click.option("--factory", help="For a file built by code of yours: its package.module:factory.")
classes_option = click.option("--num-classes", type=click.IntRange(1), help="Outputs of the network.")
shape_option = click.option("--input-shape", callback=shape, help="Such as 3,224,224; default: the network's own.")
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", callback=ready_device, show_default=True
)
threads_option = click.option(
    "--threads", type=click.IntRange(1), callback=ready_threads, help="CPU threads; default: all cores."
)
workers_option = click.option(
    "--workers", type=click.IntRange(0), default=2, show_default=True, help="Processes that decode images of a folder."
)
data_option = click.option("--data", "data_name", required=True, help="DATA, see `ghostify --help`.")
size_option = click.option("--image-size", type=click.IntRange(1), help="Side of a folder's images; default: 224.")


def ghost_options(ratio: int | None = None, cheap_kernel_size: int | None = None) -> Callable[[Command], Command]:
    """``--ratio`` and ``--cheap-kernel-size``; without a default the network's builder has its own."""

    def add(command: Command) -> Command:
        s = click.option("--ratio", type=int, default=ratio, help="s: one map in s is a convolution's.")
        d = click.option("--cheap-kernel-size", type=int, default=cheap_kernel_size, help="d of the cheap d×d filters.")
        return s(d(command))

    return add


cheap_option = click.option("--cheap", type=click.Choice(CHEAP_KINDS), default="depthwise", show_default=True)


def recipe_options(**defaults: Any) -> Callable[[Command], Command]:
    """One option per field of ``Recipe``, with a verb's own defaults."""
    choices = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}

    def add(command: Command) -> Command:
        for field in reversed(dataclasses.fields(Recipe)):
            flag, default = field.name.replace("_", "-"), defaults.get(field.name, field.default)
            kind = click.Choice(choices[field.name]) if field.name in choices else type(default)
            name = f"--{flag}/--no-{flag}" if isinstance(default, bool) else f"--{flag}"
            command = click.option(name, type=kind, default=default, show_default=True)(command)
        return command

    return add


def take_recipe(options: dict[str, Any]) -> Recipe:
    """The recipe among a verb's options; it is taken out of them."""
    return Recipe(**{field.name: options.pop(field.name) for field in dataclasses.fields(Recipe)})


# Verbs.


@cli.command()
@json_option
def models(as_json: bool) -> None:
    """List the networks that are known by name."""
    names = ghostify.list_models()
    show({"models": names}, as_json, lambda: print(*names, sep="\n"))


@cli.command()
@click.argument("model")
@weights_option
@factory_option
@classes_option
@ghost_options()
@shape_option
@click.option("--layers", "with_layers", is_flag=True, help="Print every layer.")
@json_option
def count(model: str, input_shape: tuple[int, ...] | None, with_layers: bool, as_json: bool, **options: Any) -> None:
    """Count multiply-adds (MACs) and parameters of MODEL."""
    network = open_network(model, **given(options))
    input_shape = input_shape or own_shape(network)
    counted = ghostify.count(network, input_shape)
    result = {"model": model, "input_shape": input_shape, **dataclasses.asdict(counted)}

    def tables() -> None:
        if with_layers:
            rows = [(r.name, r.kind, f"{r.macs:,}", f"{r.params:,}", size(r.output_shape)) for r in counted.layers]
            print_table(("layer", "kind", "MACs", "parameters", "output"), rows, left=2)
        total = (model, size(input_shape), f"{counted.macs / 1e6:,.2f} M", f"{counted.params / 1e6:,.3f} M")
        print_table(("network", "input", "MACs", "parameters"), [total])
        if counted.unknown:
            print("Not counted, no formula:", ", ".join(f"{name} ({n}×)" for name, n in counted.unknown.items()))

    show(result, as_json, tables)


@cli.command()
@click.argument("model")
@weights_option
@factory_option
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
    network = open_network(model, **given(options))
    shape = input_shape or own_shape(network)
    conversion = ghostify.convert(
        network, ratio=ratio, cheap_kernel_size=cheap_kernel_size, cheap=cheap, skip=skip, input_shape=shape
    )
    before, after = ghostify.count(network, shape), ghostify.count(conversion.model, shape)
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


@cli.command("train")
@click.argument("model")
@data_option
@weights_option
@factory_option
@ghost_options()
@recipe_options()
@click.option("--hold-out", type=float, default=0.1, show_default=True, help="Share of train held out for validation.")
@click.option("--out", type=Path, required=True, help="Folder for network.safetensors, history.json, checkpoint.pt.")
@click.option("--resume", is_flag=True, help="Go on with the training in --out.")
@size_option
@device_option
@threads_option
@workers_option
@json_option
def train_verb(
    model: str,
    data_name: str,
    hold_out: float,
    out: Path,
    resume: bool,
    image_size: int | None,
    device: str,
    threads: int,
    workers: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Train MODEL on DATA and score it on the test images. torchrun may start several processes."""
    recipe = take_recipe(options)
    data = load_data(data_name, image_size=image_size, hold_out=hold_out)
    torch.manual_seed(recipe.seed)
    network = open_for(data, model, options)
    with progress_bars() as progress:
        history = train(
            network,
            data,
            recipe,
            checkpoint=out / "checkpoint.pt",
            resume=resume,
            device=device,
            workers=workers,
            progress=progress,
        )
    if not first_process():
        return
    score = evaluate(network, data.test, data, device=device, workers=workers)
    save(network, out / "network.safetensors", extra=preprocessing(data))
    result = {
        "model": model,
        "data": data_name,
        "recipe": dataclasses.asdict(recipe),
        "history": [dataclasses.asdict(epoch) for epoch in history],
        **score_row(score),
        "environment": describe_environment(device),
        "out": str(out / "network.safetensors"),
    }
    with replacing(out / "history.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")

    def tables() -> None:
        rows = [
            (
                str(e.epoch),
                f"{e.train_loss:.3f}",
                percent(e.train_top1),
                percent(e.val_top1),
                f"{e.seconds:.1f}",
                percent(e.data_share),
            )
            for e in history
        ]
        print_table(("epoch", "loss", "train, %", "held out, %", "seconds", "data, %"), rows)
        print(f"{score_text(score)}; wrote {out / 'network.safetensors'}")

    show(result, as_json, tables)


@cli.command("evaluate")
@click.argument("model")
@data_option
@weights_option
@factory_option
@ghost_options()
@click.option("--mean", callback=channels, help="Of the channels in 0..1; default: the file's, else ImageNet's.")
@click.option("--std", callback=channels, help="Likewise.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=250, show_default=True)
@size_option
@device_option
@threads_option
@workers_option
@json_option
def evaluate_verb(
    model: str,
    data_name: str,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    precision: str,
    batch_size: int,
    image_size: int | None,
    device: str,
    threads: int,
    workers: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Score MODEL on the test images of DATA."""
    extra = extra_of(model)
    data = load_data(data_name, image_size=image_size)
    mean, std = mean or extra.get("mean") or data.mean, std or extra.get("std") or data.std
    data = dataclasses.replace(data, mean=tuple(mean), std=tuple(std))
    network = open_for(data, model, options).to(device)
    score = evaluate(
        network, data.test, data, device=device, precision=precision, batch_size=batch_size, workers=workers
    )
    result = {"model": model, "data": data_name, "mean": data.mean, "std": data.std, **score_row(score)}
    show(result, as_json, lambda: print(score_text(score)))


@cli.command()
@click.argument("a")
@click.argument("b")
@shape_option
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True)
@click.option("--engine", type=click.Choice(ENGINES), default="eager", show_default=True)
@click.option("--blocks", type=click.IntRange(6), default=30, show_default=True, help="Blocks timed of each network.")
@device_option
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@json_option
def compare(
    a: str,
    b: str,
    input_shape: tuple[int, ...] | None,
    batch_size: int,
    engine: str,
    blocks: int,
    device: str,
    threads: int,
    as_json: bool,
) -> None:
    """Measure the latency of network B over that of network A."""
    first, second = (open_network(name).to(device) for name in (a, b))
    input_shape = input_shape or own_shape(first)
    for network in (first, second):
        ghostify.count(network, input_shape)  # refuses an input that one of them cannot take
    example = torch.zeros(batch_size, *input_shape, device=device)
    found = ghostify.compare(first, second, example, engine=engine, threads=threads, blocks=blocks)
    environment = describe_environment(device) | {"threads": threads}
    result = {
        "a": a,
        "b": b,
        "input_shape": input_shape,
        "batch_size": batch_size,
        **dataclasses.asdict(found),
        "different": found.different,
        "environment": environment,
    }

    def tables() -> None:
        rows = [
            (name, f"{ms:.3f}", f"{low:.3f}–{high:.3f}")
            for name, ms, (low, high) in ((a, found.a_ms, found.a_ms_quartiles), (b, found.b_ms, found.b_ms_quartiles))
        ]
        print_table(("network", "median, ms", "quartiles, ms"), rows)
        print(found.verdict(a, b))

    show(result, as_json, tables)


@cli.command()
@click.option("--model", default="vgg16_cifar", show_default=True, help="MODEL, see `ghostify --help`.")
@click.option("--data", "data_name", default="digits", show_default=True, help="DATA, see `ghostify --help`.")
@weights_option
@factory_option
@ghost_options(2, 3)
@cheap_option
@recipe_options(epochs=6, batch_size=64, lr=0.05)
@click.option("--hold-out", type=float, default=0.1, show_default=True, help="Share of train held out for the curves.")
@click.option("--out", type=Path, default=Path("ghostify-run"), show_default=True, help="Folder for all results.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@size_option
@device_option
@threads_option
@workers_option
@json_option
def run(
    model: str,
    data_name: str,
    ratio: int,
    cheap_kernel_size: int,
    cheap: Any,
    hold_out: float,
    out: Path,
    resume: bool,
    image_size: int | None,
    device: str,
    threads: int,
    workers: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a network, its ghost and its narrower rival; measure all three; write a report."""
    from ghostify.jobs import run as job  # here: drawing, templates and pruning are an extra that other verbs spare

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("run measures, and is for one process: use train under torchrun")
    recipe = take_recipe(options)
    data = load_data(data_name, image_size=image_size, hold_out=hold_out)
    with progress_bars() as progress:
        proof = job.run(
            lambda: open_for(data, model, dict(options)),
            data,
            recipe,
            out,
            setting={"model": model, "data": data_name},
            ratio=ratio,
            cheap_kernel_size=cheap_kernel_size,
            cheap=cheap,
            device=device,
            workers=workers,
            resume=resume,
            progress=progress,
        )
    metrics = proof.metrics()

    def tables() -> None:
        headings = ("network", "top-1, %", "parameters", "MACs", "speed-up in theory", "measured", "peak memory")
        print_table(headings, [run_row(name, row) for name, row in metrics["networks"].items()])
        for finding in proof.findings():
            print(f"- {finding}")
        print(f"Wrote {out / job.REPORT}, {out / job.METRICS} and the networks beside them.")

    show(metrics, as_json, tables)


def run_row(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    top1 = interval(100 * row["top1"], 100 * row["top1_low"], 100 * row["top1_high"], 1)
    speedup = row["measured_speedup"]
    measured = (
        interval(speedup, row["measured_speedup_low"], row["measured_speedup_high"], 2) if row["latency"] else "1.00"
    )
    memory = f"{row['peak_memory_mb']:.1f} MB" if row["peak_memory_mb"] is not None else "–"
    macs, params = f"{row['macs'] / 1e6:.1f} M", f"{row['params'] / 1e6:.2f} M"
    return name, top1, params, macs, f"{row['theoretical_speedup']:.2f}", measured, memory


# What the verbs share.


def given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def open_for(data: ImageData, model: str, options: dict[str, Any]) -> Any:
    """The network, with as many outputs as the data has classes where that is left open."""
    if not Path(model).is_file():
        options = {"num_classes": len(data.classes), **options}
    return open_network(model, **given(options))


def own_shape(network: torch.nn.Module) -> tuple[int, ...]:
    origin = known_origin(network)
    return origin.input_shape if origin else (3, 224, 224)


def extra_of(model: str) -> dict[str, Any]:
    return read_extra(model) if Path(model).is_file() else {}


def preprocessing(data: ImageData) -> dict[str, Any]:
    return {"mean": data.mean, "std": data.std, "image_size": data.image_size, "classes": data.classes}


def score_row(score: Any) -> dict[str, Any]:
    low, high = score.interval
    return {"top1": score.top1, "top1_low": low, "top1_high": high, "top5": score.top5, "test_images": score.images}


def score_text(score: Any) -> str:
    low, high = score.interval
    top1 = interval(100 * score.top1, 100 * low, 100 * high, 2)
    return f"top-1 {top1} %, top-5 {100 * score.top5:.2f} % of {score.images} test images (95 % Wilson interval)"


def interval(value: float, low: float, high: float, digits: int) -> str:
    return f"{value:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def size(shape: tuple[int, ...] | None) -> str:
    return "–" if shape is None else "×".join(map(str, shape))


def show(result: dict[str, Any], as_json: bool, tables: Callable[[], None]) -> None:
    if as_json:
        print(json.dumps(result))
    else:
        tables()


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> None:
    """A table on standard output, its first ``left`` columns aligned left."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(table, width=None if console.is_terminal else 200, crop=False)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, str, int, int], None]]:
    """Bars on standard error, one per task; a plain line per tenth where that is no terminal."""
    console = Console(stderr=True)
    if not first_process():
        yield lambda task, detail, done, total: None
        return
    if not console.is_terminal:
        yield plain_progress
        return
    columns = (TextColumn("{task.fields[name]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[detail]}"), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(task: str, detail: str, done: int, total: int) -> None:
            if task not in tasks:
                tasks[task] = bars.add_task("", name=task, detail=detail)
            bars.update(tasks[task], completed=done, total=total, detail=detail)

        yield tell


def plain_progress(task: str, detail: str, done: int, total: int) -> None:
    if total <= 10 or done * 10 // total > (done - 1) * 10 // total:
        print(f"{task}: {detail} ({done}/{total})", file=sys.stderr, flush=True)


def first_process() -> bool:
    """Whether this is the only process, or the one of torchrun's that writes."""
    return int(os.environ.get("RANK", "0")) == 0
